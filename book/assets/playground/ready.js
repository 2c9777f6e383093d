// Loaded before the picture that a playground replaces: where the page can run one, room is kept
// for it, and the picture is neither shown nor loaded. A module that does not load calls it back.
if (
  window.Worker && window.OffscreenCanvas && window.ResizeObserver &&
  "noModule" in HTMLScriptElement.prototype && location.protocol !== "file:"
)
  document.currentScript.parentElement.classList.add("live");
