// The storefront page. Whatever comes from the wire enters by textContent, a checked address or a sandbox.
"use strict";

const SHELVES = [
  { placement: "next_best", heading: "Next for this household", about: "By habit and taste; what is bought regularly may come again." },
  { placement: "cross_sell", heading: "Goes with it", about: "What goes into one basket with it, for others and for this household; no substitute of it." },
  { placement: "upsell", heading: "A step up", about: "The same need, a step dearer, never bought before." },
];
const FOR_ANYBODY = ["popular", "newest"]; // recipes that ask neither the household nor the product
const LIMIT = 5;
// As in the message: titles that start alike share a colour.
const COLOURS = ["#4b3fc4", "#0b7285", "#2b7a3d", "#a61e4d", "#8a4b08", "#1864ab", "#862e9c", "#5c5f12"];

const $ = (id) => document.getElementById(id);
const state = { product: null, found: [], active: -1, round: 0, sample: [] };

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name === "style") node.style.background = value;
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter(Boolean));
  return node;
}

// --- asking -------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const started = performance.now();
  const response = await fetch(path, { ...options, headers: { Accept: "application/json", ...options.headers } })
    .catch(() => { throw new Error("The service does not answer. Is it still running?"); });
  const body = await response.json().catch(() => ({ error: `The service answered ${response.status} without a reason.` }));
  if (!response.ok) throw new Error(body.error);
  return { body, timing: timing(performance.now() - started, response.headers.get("Server-Timing")) };
}

function timing(spent, header) {
  const engine = /dur=([\d.]+)/.exec(header || "");
  return `${spent.toFixed(0)} ms` + (engine ? ` · engine ${Number(engine[1]).toFixed(1)} ms` : "");
}

const customer = () => $("typed").value.trim() || $("household").value || null;

function question() {
  return { customer_id: customer(), product_ids: state.product ? [state.product.product_id] : [], limit: LIMIT, explain: $("explain").checked };
}

const post = (value) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });

// --- showing ------------------------------------------------------------------------------------

function colour(title) {
  let hash = 0;
  for (const letter of title.split(" ")[0].toLowerCase()) hash = (Math.imul(hash, 31) + letter.codePointAt(0)) >>> 0;
  return COLOURS[hash % COLOURS.length];
}

function initials(title) {
  const words = title.split(",")[0].match(/\p{L}+/gu) || [];
  const letters = words.length === 1 ? words[0].slice(0, 2) : words.slice(0, 2).map((word) => word[0]).join("");
  return letters.toUpperCase() || "•";
}

function money(price, currency) {
  if (price === null) return "";
  try { return new Intl.NumberFormat("en-US", { style: "currency", currency }).format(price); }
  catch { return `${price.toFixed(2)} ${currency}`; }
}

function picture(item) {
  const tile = el("span", { class: "tile", style: colour(item.title), "aria-hidden": "true" }, initials(item.title));
  if (/^(https?:\/\/|\/)/i.test(item.image_url || "")) {
    const image = el("img", { src: item.image_url, alt: "" });
    image.addEventListener("error", () => image.remove());
    tile.append(image);
  }
  return tile;
}

function parts(item) {
  if (!item.parts) return null;
  const max = Math.max(1, ...Object.values(item.parts));
  const rows = Object.entries(item.parts).map(([name, value]) =>
    el("div", {}, el("dt", { text: name }), el("dd", { text: value.toFixed(3) }), el("meter", { min: 0, max, value, "aria-label": name })));
  return el("dl", { class: "parts" }, ...rows);
}

function card(item) {
  const source = el("span", { class: "chip source" + (item.filled ? " filled" : ""), text: item.filled ? `${item.source} · fill` : item.source });
  const foot = el("span", { class: "foot" }, el("span", { class: "price", text: money(item.price, item.currency) }), source);
  const body = el("span", { class: "body" }, el("span", { class: "title", text: item.title }), el("span", { class: "story", text: item.story }), foot, parts(item));
  const button = el("button", { type: "button", class: "card", title: "Look at this product" }, picture(item), body);
  button.addEventListener("click", () => choose(item));
  return el("li", {}, button);
}

function shelf({ placement, heading, about }) {
  const id = `shelf-${placement}`;
  const head = el("div", { class: "shelf-head" },
    el("div", {}, el("h2", { id: `${id}-title`, text: heading }), el("p", { text: about })),
    el("span", { class: "chip timing" }));
  return el("section", { class: "shelf", id, "aria-labelledby": `${id}-title` }, head, el("div", { class: "answer" }, ghosts()));
}

const ghosts = () => el("ul", { class: "cards", "aria-hidden": "true" }, ...Array.from({ length: LIMIT }, () => el("li", { class: "ghost" })));
const note = (text, fault) => el("p", { class: fault ? "note error" : "note", role: fault ? "alert" : null, text });

function filledNote(items) {
  if (!items.length) return note("Nothing can be shown here: no product is available that fits.");
  if (items.every(forAnybody)) return note("Nothing is known that leads to a list of its own here, so this is what sells.");
  return items.every((item) => item.filled) ? note("None of these is likely enough to be taken to be an offer: they fill the list.") : null;
}

const forAnybody = (item) => FOR_ANYBODY.includes(item.source);

function show(section, { body, timing }) {
  section.querySelector(".timing").textContent = timing;
  const list = el("ul", { class: "cards" }, ...body.items.map(card));
  section.querySelector(".answer").replaceChildren(...[filledNote(body.items), body.items.length ? list : null].filter(Boolean));
}

function showFault(section, fault) {
  section.querySelector(".timing").textContent = "";
  section.querySelector(".answer").replaceChildren(note(fault.message, true));
}

// --- the three lists and the message --------------------------------------------------------------

async function fill({ placement }, round) {
  const section = $(`shelf-${placement}`);
  section.classList.add("waiting");
  const answer = await ask(`v1/recommend/${placement}`, post(question())).catch((fault) => fault);
  if (round !== state.round) return;
  section.classList.remove("waiting");
  if (answer instanceof Error) showFault(section, answer);
  else show(section, answer);
}

async function write(round) {
  // To look at, and not to be sent: so as who agreed to lists would get it.
  const query = customer() ? `?customer_id=${encodeURIComponent(customer())}&agreed=true` : "";
  const answer = await ask(`v1/messages/thank_you${query}`).catch((fault) => fault);
  if (round !== state.round) return;
  const failed = answer instanceof Error;
  $("mail-error").hidden = !failed;
  $("mail-error").textContent = failed ? answer.message : "";
  $("message-timing").textContent = failed ? "" : answer.timing;
  $("subject").textContent = failed ? "–" : answer.body.subject;
  $("mail-html").srcdoc = failed ? "" : answer.body.html;
  $("mail-text").textContent = failed ? "" : answer.body.text;
  showPart();
}

function showPart() {
  const wanted = document.querySelector("input[name=part]:checked").value;
  const failed = !$("mail-error").hidden;
  $("mail-html").hidden = failed || wanted !== "html";
  $("mail-text").hidden = failed || wanted !== "text";
  fit();
}

// The sandbox bars scripts and leaves the origin, so that the message can be measured.
function fit() {
  const inside = $("mail-html").contentDocument?.documentElement;
  if (inside && !$("mail-html").hidden) $("mail-html").style.height = `${inside.offsetHeight}px`;
}

async function refresh() {
  const round = ++state.round;
  await Promise.all([...SHELVES.map((row) => fill(row, round)), write(round)]);
  if (round !== state.round) return;
  $("status").textContent = "Lists and message updated.";
  document.body.dataset.ready = String(round);
}

// --- choosing a product -----------------------------------------------------------------------------

function choose(product) {
  state.product = product;
  $("search").value = product ? product.title : "";
  $("clear").hidden = !product;
  close();
  refresh();
}

async function search() {
  const text = $("search").value.trim();
  const wanted = text || !state.sample.length;
  const answer = wanted ? await ask(`v1/products?q=${encodeURIComponent(text)}&limit=12`).catch((fault) => fault) : { body: { products: state.sample } };
  if (text !== $("search").value.trim() || document.activeElement !== $("search")) return;
  if (answer instanceof Error) return offer([], answer.message);
  offer(answer.body.products, "No product has these words in its title.");
}

function offer(products, otherwise) {
  state.found = products;
  state.active = -1;
  const rows = products.map(option);
  $("found").replaceChildren(...(rows.length ? rows : [el("li", { role: "presentation", text: otherwise })]));
  $("found").hidden = false;
  $("search").setAttribute("aria-expanded", "true");
}

function option(product, place) {
  const row = el("li", { role: "option", id: `found-${place}`, "aria-selected": "false" }, product.title, el("span", { text: money(product.price, product.currency) }));
  row.addEventListener("mousedown", (event) => { event.preventDefault(); choose(product); });
  return row;
}

function close() {
  $("found").hidden = true;
  state.active = -1;
  $("search").setAttribute("aria-expanded", "false");
  $("search").removeAttribute("aria-activedescendant");
}

function move(step) {
  if (!state.found.length || $("found").hidden) return;
  state.active = (state.active + step + state.found.length) % state.found.length;
  [...$("found").children].forEach((row, place) => row.setAttribute("aria-selected", String(place === state.active)));
  $("search").setAttribute("aria-activedescendant", `found-${state.active}`);
  $(`found-${state.active}`).scrollIntoView({ block: "nearest" });
}

const KEYS = {
  ArrowDown: () => ($("found").hidden ? search() : move(1)),
  ArrowUp: () => move(state.active < 0 ? 0 : -1),
  Enter: () => { const product = state.found[Math.max(state.active, 0)]; if (product && !$("found").hidden) choose(product); },
  Escape: close,
};

function later(action, wait) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(action, wait); };
}

// --- start --------------------------------------------------------------------------------------------

function listen() {
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("household").addEventListener("change", () => { $("typed").value = ""; refresh(); });
  $("typed").addEventListener("input", later(refresh, 250));
  $("explain").addEventListener("change", refresh);
  $("search").addEventListener("input", later(search, 120));
  $("search").addEventListener("focus", () => { $("search").select(); search(); });
  $("search").addEventListener("blur", () => { close(); $("search").value = state.product ? state.product.title : ""; });
  $("search").addEventListener("keydown", (event) => {
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  $("clear").addEventListener("click", () => choose(null));
  $("mail-html").addEventListener("load", fit);
  addEventListener("resize", later(fit, 100));
  document.querySelectorAll("input[name=part]").forEach((radio) => radio.addEventListener("change", showPart));
}

function introduce({ body }) {
  $("store").textContent = document.title = body.store;
  $("version").textContent = body.model_version;
  $("until").textContent = body.data_until.slice(0, 10);
  $("household").append(...body.customers.map((id) => el("option", { value: id, text: id })));
  $("household").value = body.customers[0] || "";
  state.sample = body.products;
  state.product = body.products[0] || null;
  $("search").value = state.product ? state.product.title : "";
  $("clear").hidden = !state.product;
}

async function start() {
  $("lists").append(...SHELVES.map(shelf));
  listen();
  await ask("v1/sample").then(introduce).catch((fault) => $("lists").prepend(note(fault.message, true)));
  await refresh();
}

start();
