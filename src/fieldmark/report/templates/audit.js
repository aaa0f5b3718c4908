
(() => {
  const make = (tag, attributes = {}, text = "") => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return node;
  };

  const filter = document.getElementById("class-filter");
  const items = [...document.querySelectorAll("[data-class]")];
  const count = (nodes) => nodes.filter((node) => !node.hidden).length;
  const apply = () => {
    for (const item of items) item.hidden = filter.value !== "" && item.dataset.class !== filter.value;
    for (const cards of document.querySelectorAll(".cards")) {
      const all = [...cards.querySelectorAll(".card")];
      cards.querySelector(".none").hidden = count(all) > 0 || all.length === 0;
    }
    const rows = items.filter((item) => item.tagName === "TR");
    const cards = items.filter((item) => item.tagName !== "TR");
    document.getElementById("filter-shown").textContent =
      `${count(rows)} of ${rows.length} table rows and ${count(cards)} of ${cards.length} picture cards shown`;
  };
  if (filter) {
    document.getElementById("filter").hidden = false;
    filter.addEventListener("change", apply);
    apply();
  }

  const say = (status, text) => {
    status.textContent = text;
  };
  const select = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };
  // A page opened from a file has no clipboard in some browsers: then the text is selected.
  const copy = async (code, status) => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      say(status, "Copied.");
    } catch {
      select(code);
      let done = false;
      try { done = document.execCommand("copy"); } catch { done = false; }
      say(status, done ? "Copied." : "Selected: copy it with Ctrl+C or \u2318C.");
    }
  };
  for (const block of document.querySelectorAll("pre.command")) {
    const row = make("div", { class: "copying" });
    const button = make("button", { type: "button" }, "Copy");
    button.setAttribute("aria-label", `Copy. ${block.getAttribute("aria-label")}`);
    const status = make("span", { role: "status" });
    button.addEventListener("click", () => copy(block.querySelector("code"), status));
    row.append(button, status);
    block.after(row);
  }

  const dialog = make("dialog", { class: "viewer", "aria-label": "Picture, enlarged" });
  const figure = make("figure");
  const caption = make("figcaption", { "aria-live": "polite" });
  const controls = make("div", { class: "controls" });
  const place = make("span");
  const back = make("button", { type: "button", "aria-label": "Previous picture" }, "\u2190");
  const on = make("button", { type: "button", "aria-label": "Next picture" }, "\u2192");
  const close = make("button", { type: "button" }, "Close");
  controls.append(place, back, on, close);
  let image = null;
  let opener = null;
  let index = 0;
  const list = () => [...document.querySelectorAll("button.zoom")].filter((one) => one.offsetParent);
  const show = (step) => {
    const buttons = list();
    index = (index + step + buttons.length) % buttons.length;
    const source = buttons[index].querySelector("img");
    image.src = source.src;
    image.alt = source.alt;
    const words = buttons[index].closest("figure").querySelector("figcaption");
    const told = words ? [...words.children].map((one) => one.textContent.trim()) : [];
    caption.textContent = [source.alt, ...told].filter(Boolean).join(" \u00b7 ");
    place.textContent = `${index + 1} of ${buttons.length}`;
  };
  const open = (button) => {
    if (image === null) {
      image = make("img", { alt: "" });
      figure.append(image, caption, controls);
      dialog.append(figure);
      document.body.append(dialog);
    }
    opener = button;
    index = list().indexOf(button);
    show(0);
    dialog.showModal();
    close.focus();
  };
  back.addEventListener("click", () => show(-1));
  on.addEventListener("click", () => show(1));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => opener && opener.focus());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(step);
  });
  for (const picture of document.querySelectorAll("img[data-zoom]")) {
    const button = make("button", { type: "button", class: "zoom", "aria-haspopup": "dialog" });
    picture.replaceWith(button);
    button.append(picture);
    button.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
    button.addEventListener("click", () => open(button));
  }
})();
