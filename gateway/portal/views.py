"""Pages."""
from pathlib import Path
from aiohttp import web
STATIC = Path(__file__).parent / "static"
async def inventory(request): return web.Response(text="")
deployment = project = model = events = plotly = inventory
