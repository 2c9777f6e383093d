// What the site check measures in a page. Evaluated in the page, it defines window.book.
window.book = (() => {
  const slack = 1.5; // pixels: edges are rounded
  const article =
    document.querySelector("article.bd-article") || document.querySelector("main") || document.body;
  const scrolls = (style) => ["auto", "scroll"].includes(style.overflowX);
  const shown = (element) => element.checkVisibility({ visibilityProperty: true });
  const round = Math.round;

  // The edges of an element's content box, without its padding, border and scroll bar.
  function inner(element) {
    const rect = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    const left = rect.left + element.clientLeft;
    return {
      left: left + parseFloat(style.paddingLeft),
      right: left + element.clientWidth - parseFloat(style.paddingRight),
    };
  }

  function* ancestors(element) {
    for (let e = element; e && e !== document.body; e = e.parentElement) yield e;
  }

  function selector(element) {
    const id = [...ancestors(element)].find((e) => e.id);
    const classes = [...element.classList].slice(0, 2).map((c) => `.${c}`).join("");
    const own = element.tagName.toLowerCase() + classes;
    return id ? (id === element ? `#${id.id}` : `${own} in #${id.id}`) : own;
  }

  // Formulas are set, fonts are there, and the page's scripts have seen what is laid out.
  async function settled() {
    if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
    await document.fonts.ready;
    // A window that the browser does not draw has no frames to wait for.
    const late = new Promise((resolve) => setTimeout(resolve, 2000));
    for (let frame = 0; frame < 2; frame++)
      await Promise.race([new Promise(requestAnimationFrame), late]);
  }

  // Folded text counts as well: everything is opened but the code that a reader has to ask for.
  async function unfold() {
    for (const e of article.querySelectorAll("details")) e.open = true;
    for (const e of article.querySelectorAll(".toggle-hidden"))
      e.classList.remove("toggle-hidden");
    await settled();
  }

  function ink(math) {
    let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const e of math.querySelectorAll("*")) {
      if (e.childElementCount) continue;
      const r = e.getBoundingClientRect();
      if (!r.width) continue;
      [left, right] = [Math.min(left, r.left), Math.max(right, r.right)];
      [top, bottom] = [Math.min(top, r.top), Math.max(bottom, r.bottom)];
    }
    return { left, right, top, bottom };
  }

  function tex(container) {
    const items = [...(window.MathJax?.startup?.document?.math ?? [])];
    const source = items.find((item) => item.typesetRoot === container)?.math ?? "";
    const text = source.replace(/\s+/g, " ").trim();
    return text.length > 60 ? `${text.slice(0, 57)}...` : text;
  }

  // Display formulas that a reader cannot see whole. `may_scroll`: in a box of its own is enough.
  function equations(may_scroll) {
    const found = [];
    for (const error of article.querySelectorAll("mjx-merror"))
      found.push(`a formula that MathJax can read, found ${error.textContent.slice(0, 80)}`);
    for (const container of article.querySelectorAll('mjx-container[display="true"]')) {
      if (!shown(container)) continue;
      const box = container.closest("div.math") ?? container.parentElement;
      const seen = ink(container.querySelector("mjx-math"));
      const clips = [...ancestors(container)].filter(
        (e) => article.contains(e) && getComputedStyle(e).overflowX !== "visible"
      );
      const home = inner(box);
      const visible = { ...seen };
      for (const e of clips) {
        const r = e.getBoundingClientRect();
        home.left = Math.max(home.left, r.left);
        home.right = Math.min(home.right, r.left + e.clientLeft + e.clientWidth);
        visible.left = Math.max(visible.left, r.left);
        visible.right = Math.min(visible.right, r.left + e.clientLeft + e.clientWidth);
      }
      const name = box.id.replace(/^equation-/, "") || tex(container);
      const width = round(seen.right - seen.left);
      const fits = seen.left >= home.left - slack && seen.right <= home.right + slack;
      const scroller = clips.find(
        (e) => scrolls(getComputedStyle(e)) && e.scrollWidth > e.clientWidth + 1
      );
      const reached =
        scroller && seen.left + scroller.scrollLeft >= scroller.getBoundingClientRect().left - slack;
      if (!fits && !(may_scroll && reached))
        found.push(
          may_scroll
            ? `a formula that fits or scrolls in its own box, found one of ${width} px in ` +
                `${round(home.right - home.left)} px: ${name}`
            : `a formula of at most ${round(home.right - home.left)} px, found ${width} px: ${name}`
        );
      const number = box.querySelector(".eqno")?.getBoundingClientRect();
      if (number && number.width) {
        const across = Math.min(number.right, visible.right) - Math.max(number.left, visible.left);
        const down = Math.min(number.bottom, visible.bottom) - Math.max(number.top, visible.top);
        if (across > slack && down > slack)
          found.push(`a number beside its formula, found ${round(across)} px over it: ${name}`);
      }
    }
    return found;
  }

  // Formulas within a line that are cut off, or leave the column.
  function inline() {
    const found = [];
    const edge = Math.min(inner(article).right, document.documentElement.clientWidth);
    for (const container of article.querySelectorAll('mjx-container:not([display="true"])')) {
      if (!shown(container)) continue;
      const right = container.getBoundingClientRect().right;
      const held = [...ancestors(container)].some(
        (e) => article.contains(e) && scrolls(getComputedStyle(e))
      );
      if (right > edge + slack && !held)
        found.push(
          `a formula in the text within the column, found ${round(right - edge)} px beyond it: ` +
            tex(container)
        );
    }
    return found;
  }

  // Visible lines of code that are cut off.
  function code() {
    const found = [];
    for (const pre of article.querySelectorAll("div.highlight pre")) {
      if (pre.closest(".cell_output") || !shown(pre)) continue;
      const over = pre.scrollWidth - pre.clientWidth;
      const lines = pre.textContent.split("\n");
      const longest = lines.reduce((a, b) => (b.length > a.length ? b : a), "");
      if (over > 1)
        found.push(
          `code lines of at most ${pre.clientWidth} px, found ${pre.scrollWidth} px ` +
            `(${longest.length} characters): ${longest.trim().slice(0, 60)}`
        );
    }
    return found;
  }

  // What makes the page wider than the screen.
  function sideways() {
    const width = document.documentElement.clientWidth;
    const over = document.documentElement.scrollWidth - width;
    if (over <= 1) return [];
    const wide = [...document.body.querySelectorAll("*")].filter((e) => {
      if (e.getBoundingClientRect().right <= width + 1 || !shown(e)) return false;
      return ![...ancestors(e.parentElement)].some(
        (a) => getComputedStyle(a).overflowX !== "visible"
      );
    });
    const inmost = wide.filter((e) => !wide.some((other) => e !== other && e.contains(other)));
    const names = [...new Set(inmost.map(selector))].slice(0, 3).join(", ");
    return [`a page no wider than ${width} px, found ${over} px more: ${names || "?"}`];
  }

  function pictures() {
    return [...article.querySelectorAll("img")].map((img) => {
      const rect = img.getBoundingClientRect();
      const home = [...ancestors(img)].find((e) => e.id);
      return {
        source: img.currentSrc || img.src,
        name: home && home !== article ? home.id : img.getAttribute("src").split("/").pop(),
        alt: img.getAttribute("alt"),
        width: rect.width,
        top: rect.top + window.scrollY,
        output: img.closest(".cell_output, figure") !== null,
      };
    });
  }

  // The share of the article's height that is code before anything is unfolded.
  function share() {
    const cells = [...article.querySelectorAll("div.cell_input")].filter(shown);
    const height = cells.reduce((sum, e) => sum + e.getBoundingClientRect().height, 0);
    return height / article.getBoundingClientRect().height;
  }

  // What makes axe slow and tells it nothing: the glyphs of formulas (hidden from it), and code
  // in a colour that it has seen before. A box keeps its longest line, so that it scrolls if it did.
  // Colours are asked for where they end, not on the way there.
  function thin() {
    for (const motion of document.getAnimations()) motion.cancel();
    for (const math of article.querySelectorAll("mjx-math")) math.replaceChildren();
    const seen = new Set();
    for (const pre of article.querySelectorAll("pre")) {
      const place = pre.closest(".cell_output, .cell_input")?.classList ?? "";
      const lines = pre.textContent.split("\n");
      const longest = lines.reduce((a, b) => (b.length > a.length ? b : a), "");
      for (const token of pre.querySelectorAll("span")) {
        const kind = `${place} ${token.className}`;
        if (seen.has(kind) && !token.childElementCount) token.replaceWith(...token.childNodes);
        seen.add(kind);
      }
      pre.normalize();
      for (const node of pre.childNodes)
        if (node.nodeType === Node.TEXT_NODE) node.data = `${node.data.trim().slice(0, 20)}\n`;
      pre.append(longest);
    }
  }

  function dress(theme) {
    document.documentElement.dataset.mode = theme;
    document.documentElement.dataset.theme = theme;
  }

  // The rules of colours apart, outside of what is named, if anything is.
  async function violated(options, colours, without) {
    if (!without) return (await axe.run(document, options)).violations;
    const off = Object.fromEntries(colours.map((rule) => [rule, { enabled: false }]));
    const all = await axe.run(document, { ...options, rules: { ...options.rules, ...off } });
    const own = { ...options, runOnly: { type: "rule", values: colours } };
    const rest = await axe.run({ exclude: [without] }, own);
    return [...all.violations, ...rest.violations];
  }

  async function accessible(options, colours, without) {
    const violations = await violated(options, colours, without);
    const found = [];
    for (const { id, help, nodes } of violations)
      for (const node of nodes) {
        const data = [...node.any, ...node.all, ...node.none].find((check) => check.data)?.data;
        const colours = data?.fgColor
          ? ` (${data.fgColor} on ${data.bgColor}: ${data.contrastRatio}, ` +
            `expected ${data.expectedContrastRatio})`
          : "";
        found.push({ rule: id, help: help + colours, target: node.target.flat().join(" ") });
      }
    return found;
  }

  return {
    settled, unfold, equations, inline, code, sideways, pictures, share, thin, dress,
    accessible,
  };
})();
