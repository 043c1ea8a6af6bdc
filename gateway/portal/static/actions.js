// Forms that call the HTTP interface: <form data-call="POST /v1/…"> sends its fields as JSON (with a file: as a form).
// data-at is a field's place in the JSON (["payoff", "yes", "no"]) where a name does not say it. A field named in data-path fills {name} in the path; data-number fields are numbers; empty fields are left out, those with data-null are null.
// data-then is where to go when it was done ({field} of the answer); without it the page is read again.
for (const form of document.querySelectorAll("form[data-call]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = form.querySelector("output") ?? form.appendChild(document.createElement("output"));
    const button = form.querySelector("button");
    const fields = {};
    for (const input of form.elements) {
      if (input.dataset.at && input.value !== "") {
        const path = JSON.parse(input.dataset.at), last = path.pop();
        const place = path.reduce((at, key, k) => (at[key] ??= typeof (path[k + 1] ?? last) === "number" ? [] : {}), fields);
        place[last] = "number" in input.dataset ? Number(input.value) : input.value;
        continue;
      }
      if (input.name && input.value === "" && "null" in input.dataset) { fields[input.name] = null; continue; }
      if (!input.name || input.value === "" || (input.type === "checkbox" && !input.checked)) continue;
      fields[input.name] = input.type === "file" ? input.files[0] : input.type === "checkbox" ? true : "number" in input.dataset ? Number(input.value) : "list" in input.dataset ? [input.value] : input.value;
    }
    const ask = form.dataset.ask;
    if (ask) {
      const answer = prompt(ask, form.dataset.suggest ?? "");
      if (answer === null || answer === "") return;
      fields[form.dataset.asked ?? "reason"] = answer;
    }
    let [method, path] = form.dataset.call.split(" ");
    path = path.replace(/\{(\w+)\}/g, (_, name) => { const value = encodeURIComponent(fields[name] ?? ""); delete fields[name]; return value; });
    const options = { method, headers: {} };
    if (Object.values(fields).some((value) => value instanceof File)) {
      options.body = new FormData();
      for (const [name, value] of Object.entries(fields)) options.body.append(name, value);
    } else if (method !== "DELETE" && method !== "GET") {
      options.body = JSON.stringify(fields);
      options.headers["Content-Type"] = "application/json";
    }
    button.disabled = true;
    said.className = "soft small";
    said.textContent = "…";
    try {
      const response = await fetch(path, options);
      const found = await response.json();
      if (!response.ok) throw new Error(found.error?.message ?? response.statusText);
      if (form.dataset.then) location.href = form.dataset.then.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(found[name]));
      else location.reload();
    } catch (error) {
      said.className = "failing small";
      said.textContent = error.message;
      button.disabled = false;
    }
  });
}
