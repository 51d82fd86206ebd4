// Fetches the page again every few seconds, as long as somebody looks at it.
(() => {
  const interval = 5000;
  const box = document.getElementById("refresh");
  const told = document.getElementById("refreshed");
  const button = box.querySelector("button");
  let on = true;
  const tell = (text) => { told.textContent = text; };
  const show = () => {
    button.textContent = on ? "Stop refreshing" : "Refresh";
    tell(on ? "every " + interval / 1000 + " s" : "this stands still");
  };
  const refresh = async () => {
    if (!on || document.hidden) return;
    try {
      const answer = await fetch(location.href, { signal: AbortSignal.timeout(2 * interval) });
      if (!answer.ok) throw new Error(answer.status);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!on || !next.querySelector("main")) return;
      for (const part of ["main", "footer"]) {
        document.querySelector(part).replaceWith(next.querySelector(part));
      }
      document.title = next.title;
      show();
    } catch {
      tell("no answer; this is old");
    }
  };
  button.addEventListener("click", () => { on = !on; show(); refresh(); });
  const again = () => refresh().finally(() => setTimeout(again, interval));
  setTimeout(again, interval);
  show();
  box.hidden = false;
})();
