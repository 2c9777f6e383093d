// Figures open in a dialog, the claims pages have a filter. Without this file nothing is lost.
"use strict";

function makeFiguresZoomable() {
  const dialog = document.createElement("dialog");
  const picture = document.createElement("img");
  const close = document.createElement("button");
  dialog.className = "zoom";
  close.textContent = "Close";
  close.autofocus = true;
  dialog.append(picture, close);
  dialog.addEventListener("click", () => dialog.close()); // Escape closes it as well
  document.body.append(dialog);
  for (const image of document.querySelectorAll("figure img, .cell_output img")) {
    const number = image.closest("figure")?.querySelector(".caption-number")?.textContent.trim();
    const name = number || "this figure";
    const frame = document.createElement("span");
    const open = document.createElement("button");
    frame.className = "zoomable";
    open.textContent = "⤢";
    open.setAttribute("aria-label", `Enlarge ${name}`);
    image.replaceWith(frame);
    frame.append(image, open);
    for (const element of [image, open])
      element.addEventListener("click", (event) => {
        event.preventDefault(); // the picture may be a link to itself
        picture.src = image.currentSrc || image.src;
        picture.alt = image.alt;
        picture.style.setProperty("--shape", image.naturalWidth / image.naturalHeight);
        dialog.setAttribute("aria-label", name);
        dialog.showModal();
      });
  }
}

// Each .claims-filter chooses rows of the tables of its page, by words and by verdict.
function makeFilter(form) {
  const [text, count] = [form.querySelector("input"), form.querySelector("output")];
  const rows = [...document.querySelectorAll("table.ledger tbody tr, table.items tbody tr")];
  let chosen = "";
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/);
    let found = 0;
    for (const row of rows) {
      const verdict = row.querySelector(".verdict")?.textContent;
      const content = row.textContent.toLowerCase();
      row.hidden = (chosen && verdict !== chosen) || !words.every((word) => content.includes(word));
      found += !row.hidden;
    }
    count.textContent = `${found} of ${rows.length} rows`;
  };
  text.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of form.querySelectorAll("button"))
    button.addEventListener("click", () => {
      chosen = chosen === button.value ? "" : button.value;
      for (const other of form.querySelectorAll("button"))
        other.setAttribute("aria-pressed", other.value === chosen);
      apply();
    });
  const show = () => { // a link to a row that the filter hides
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.closest("tr")?.hidden) form.reset(), (chosen = ""), apply();
    target?.scrollIntoView();
  };
  window.addEventListener("hashchange", show);
  form.hidden = false;
  apply();
}

// The theme's buttons get names that say what they show, its title a landmark.
function nameControls() {
  for (const button of document.querySelectorAll(".search-button-field"))
    button.removeAttribute("aria-label");
  // What scrolls can be reached by keyboard, also once it is unfolded (MathJax sees to formulas).
  const reach = new ResizeObserver((entries) => {
    for (const { target } of entries)
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
  });
  for (const box of document.querySelectorAll("pre, .output")) reach.observe(box);
  document.querySelector("#pst-primary-sidebar")?.setAttribute("role", "complementary");
}

document.addEventListener("DOMContentLoaded", () => {
  nameControls();
  makeFiguresZoomable();
  document.querySelectorAll("form.claims-filter").forEach(makeFilter);
});
