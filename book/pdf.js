// The whole book as one page, to be printed. Evaluated in an empty page of the site, it defines
// window.pdf; browser.js measures what it made, in the layout of paper.
window.pdf = (() => {
  const slack = 1.5; // pixels: edges are rounded
  const smallest = 0.6; // of its size, a formula that is wider than the paper
  // What paper does not need; the still picture of a playground stays.
  const useless = "script, button, form, .headerlink, .playground-stage, #pdf";
  const place = (page, id) => `${page}:${id}`; // an id is unique on its page of the site only

  function element(tag, content, properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...content);
    return made;
  }

  async function read(page) {
    const response = await fetch(`/${page}.html`);
    const content = new DOMParser().parseFromString(await response.text(), "text/html");
    const section = content.querySelector("article.bd-article");
    if (!section) throw new Error(`${page}: expected a page of the site, found none`);
    return { page, address: response.url, content, section };
  }

  // The style sheets of the pages, and MathJax with its settings; no other script runs.
  async function dress(sources) {
    const known = new Set();
    for (const { address, content } of sources)
      for (const old of content.head.querySelectorAll('link[rel="stylesheet"], style, script')) {
        const link = old.getAttribute("href") ?? old.getAttribute("src");
        const whole = link ? new URL(link, address).href : old.textContent;
        const script = old.localName === "script";
        if (known.has(whole) || (script && !/mathjax/i.test(whole))) continue;
        known.add(whole);
        const made = element(old.localName, link ? [] : [whole]);
        if (link) Object.assign(made, script ? { src: whole } : { rel: "stylesheet", href: whole });
        document.head.append(made);
        if (link) await new Promise((done) => (made.onload = made.onerror = done));
      }
  }

  // A page's article as a section of the book: ids and links with the page's name, all of it open.
  function adapt({ page, address, section }, pages) {
    for (const e of section.querySelectorAll(useless)) e.remove();
    for (const e of section.querySelectorAll("[id]")) e.id = place(page, e.id);
    for (const e of section.querySelectorAll("details")) e.open = true;
    for (const image of section.querySelectorAll("img")) {
      image.loading = "eager";
      image.src = new URL(image.getAttribute("src"), address).href;
    }
    for (const link of section.querySelectorAll("a[href]")) {
      const target = new URL(link.getAttribute("href"), address);
      if (target.origin !== location.origin) continue;
      const other = decodeURIComponent(target.pathname).replace(/^\/|\.html$/g, "");
      const id = decodeURIComponent(target.hash.slice(1));
      if (pages.has(other)) link.href = `#${id ? place(other, id) : other}`;
      else link.removeAttribute("href"); // a download, an index
    }
    for (const heading of section.querySelectorAll("h1, h2, h3, h4, h5"))
      heading.ariaLevel = Number(heading.localName[1]) + 1; // in the outline, below the part's
    return element("section", section.childNodes, { id: page, className: "paper-page" });
  }

  // The title of the book, the build that it is of, and its pages; printed first.
  function contents(home, parts, sections) {
    const built = home.querySelector(".extra_footer p")?.firstChild ?? "";
    const title = element("h1", [document.title], { ariaLevel: 1 });
    const list = element("nav", []);
    for (const [caption, pages] of parts) {
      const entry = (page) => {
        const name = sections.get(page).querySelector("h1")?.textContent ?? page;
        return element("li", [element("a", [name], { href: `#${page}` })]);
      };
      list.append(element("p", [caption]), element("ul", pages.map(entry)));
    }
    const content = [title, element("p", [built]), list];
    return element("section", content, { className: "paper-contents" });
  }

  // `parts`: pairs of a caption and the names of its pages; the first has the home page.
  async function assemble(parts) {
    const names = parts.flatMap(([, pages]) => pages);
    const sources = new Map();
    for (const page of names) sources.set(page, await read(page));
    await dress(sources.values());
    const sections = new Map();
    for (const page of names) sections.set(page, adapt(sources.get(page), sources));
    for (const [caption, pages] of parts) {
      const properties = { className: "paper-part", role: "heading", ariaLevel: 1 };
      if (caption) sections.get(pages[0]).prepend(element("p", [caption], properties));
    }
    const first = contents(sources.get(names[0]).content, parts, sections);
    const article = element("article", [first, ...sections.values()], { className: "bd-article" });
    const container = element("div", [article], { className: "bd-article-container" });
    document.body.append(element("main", [container], { className: "bd-content" }));
    await window.MathJax?.startup?.promise;
    await window.MathJax?.typesetPromise?.([article]);
    await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
    await document.fonts.ready;
    fit(article);
  }

  // A formula that is wider than the paper gets smaller type.
  function fit(article) {
    const formulas = [...article.querySelectorAll('mjx-container[display="true"]')];
    const widths = formulas.map((formula) => [
      formula.clientWidth,
      formula.querySelector("mjx-math").getBoundingClientRect().width,
    ]);
    for (const [i, [room, width]] of widths.entries())
      if (width > room) {
        const size = parseFloat(getComputedStyle(formulas[i]).fontSize);
        formulas[i].style.fontSize = `${size * Math.max(smallest, (0.99 * room) / width)}px`;
      }
  }

  function where(e) {
    const classes = [...e.classList].slice(0, 2).map((c) => `.${c}`).join("");
    const words = e.textContent.trim().slice(0, 40);
    return `${e.localName}${classes} in #${e.closest("[id]")?.id}: ${words}`;
  }

  // How far an element, or a word in it, is beyond its box; a formula has more that is only heard.
  function beyond(e) {
    const box = e.parentElement;
    const over = e.getBoundingClientRect().right - box.getBoundingClientRect().right;
    const formula = e.closest("mjx-container") || e.querySelector("mjx-container");
    const words = e.clientWidth && !formula ? e.scrollWidth - e.clientWidth : 0;
    return Math.max(box.clientWidth ? over : 0, words);
  }

  // What does not fit, besides what browser.js measures; what is not there.
  function* faults() {
    for (const e of document.querySelectorAll("main *")) {
      if (e.parentElement.closest("mjx-container, svg") || !e.checkVisibility()) continue;
      const over = Math.round(beyond(e));
      if (over > slack) yield `nothing wider than its box, found ${over} px more: ${where(e)}`;
    }
    for (const e of document.querySelectorAll("details:not([open])"))
      yield `a box that is open, found ${where(e)}`;
    for (const image of document.images)
      if (!image.naturalWidth) yield `the picture ${image.src}, found none`;
    for (const math of document.querySelectorAll(".math"))
      if (!math.querySelector("mjx-container")) yield `a formula that is set, found ${where(math)}`;
    for (const link of document.querySelectorAll('a[href^="#"]')) {
      const id = decodeURIComponent(link.hash.slice(1));
      if (!document.getElementById(id))
        yield `the place ${id} of a link, found none: ${where(link)}`;
    }
  }

  return { assemble, faults: () => [...faults()] };
})();
