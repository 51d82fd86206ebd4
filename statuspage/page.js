// Refreshes the page periodically while it is visible.
(() => {
  const interval = 5000;
  const box = document.getElementById("refresh");
  const state = document.getElementById("refreshed");
  const button = box.querySelector("button");
  let on = true;
  const setState = (text) => { state.textContent = text; };
  const show = () => {
    button.textContent = on ? "Stop refreshing" : "Refresh";
    setState(on ? "every " + interval / 1000 + " s" : "not refreshing");
  };
  const refresh = async () => {
    if (!on || document.hidden) return;
    try {
      const response = await fetch(location.href, { signal: AbortSignal.timeout(2 * interval) });
      if (!response.ok) throw new Error(response.status);
      const next = new DOMParser().parseFromString(await response.text(), "text/html");
      if (!on || !next.querySelector("main")) return;
      const unfolded = new Set(Array.from(document.querySelectorAll("details[open]"), (d) => d.dataset.key));
      const focused = document.activeElement.closest("details")?.dataset.key;
      for (const part of ["main", "footer"]) {
        document.querySelector(part).replaceWith(next.querySelector(part));
      }
      for (const details of document.querySelectorAll("details")) {
        details.open = unfolded.has(details.dataset.key);
        if (details.dataset.key === focused) details.querySelector("summary").focus({ preventScroll: true });
      }
      document.title = next.title;
      show();
    } catch {
      setState("no response, data is outdated");
    }
  };
  button.addEventListener("click", () => { on = !on; show(); refresh(); });
  const again = () => refresh().finally(() => setTimeout(again, interval));
  setTimeout(again, interval);
  show();
  box.hidden = false;
})();
