// <osclms-recommendations placement="cart">: a list of recommended products on a shop's page. docs/widget.md tells how.
//
// What comes from the wire enters by textContent or as a checked address. Nothing is stored, and before
// setConsent(true) nothing that tells who somebody is is read or sent, and nothing is told of what they do.
"use strict";
(() => {
const NAME = "osclms-recommendations";
if (customElements.get(NAME)) return;

const HOME = document.currentScript?.src ? new URL("..", document.currentScript.src).href : document.baseURI;
const PATIENCE = 10_000; // ms for an answer
const NEAR = "400px"; // how far outside the view a lazy list asks
const SHOWN = 0.5, LOOKED_AT = 1000; // the share of a product and the ms in view that make an impression
const GATHERED = 250; // ms in which impressions travel together
const STEP = 2.5; // px a frame; browsers count 3 and more as a layout shift
const GHOSTS = 6;
const SIZES = [ // all that gives an empty element height, in the order in which it is taken away
  "block-size", "padding-block-end", "padding-block-start", "border-block-end-width", "border-block-start-width",
  "margin-block-end", "margin-block-start",
];
const BELOW = SIZES.indexOf("margin-block-end");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const present = new Set(); // elements in the document
const moving = new Set(); // elements that take or give room at the moment
const kept = new Map(); // answers by their questions, for as long as the service says and no longer than the page
let awake = false; // whether all that stood on the page before this script are elements by now
let consent = window.OSCLMS?.consent === true; // as given before this script came

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
  :host { display: block; }
  * { box-sizing: border-box; }
  section { display: flex; flex-direction: column; max-block-size: 100%; } /* of room that is short, pictures give most */
  h2 { flex: none; margin: 0 0 .6em; font-size: 1.25em; line-height: 1.3; }
  [aria-busy="true"] h2 { visibility: hidden; }
  ul {
    display: flex; gap: var(--osclms-gap, 1em); block-size: var(--osclms-row, 20em); margin: 0; padding: 0 0 1em;
    list-style: none; overflow: auto hidden; scroll-snap-type: x proximity; scrollbar-width: thin;
  }
  li { flex: none; inline-size: var(--osclms-tile, 11em); scroll-snap-align: start; }
  .link { display: flex; flex-direction: column; gap: .25em; block-size: 100%; padding: 4px; color: inherit; text-decoration: none; }
  .image, .ghost::before {
    flex: 0 1 auto; display: block; block-size: var(--osclms-image, 11em); border-radius: .75em; overflow: hidden; background: #8883;
  }
  img { display: block; inline-size: 100%; block-size: 100%; object-fit: cover; }
  .title, .story { flex: none; overflow: hidden; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow-wrap: anywhere; }
  .title { font-weight: 600; line-height: 1.3; }
  .story { font-size: .85em; line-height: 1.3; }
  .price { margin-block-start: auto; font-weight: 600; font-variant-numeric: tabular-nums; }
  a.link:hover .title { text-decoration: underline; }
  a.link:focus-visible, ul:focus-visible { outline: 3px solid; outline-offset: -3px; border-radius: .75em; }
  .ghost::before { content: ""; animation: pulse 1.2s infinite alternate; }
  @keyframes pulse { to { opacity: .4; } }
  @media (prefers-reduced-motion: reduce) { .ghost::before { animation: none; } }
`);

// --- small things ---------------------------------------------------------------------------------

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter(Boolean));
  return node;
}

const named = (tag, name, more = {}, ...children) => el(tag, { class: name, part: name, ...more }, ...children);
const frame = () => new Promise(requestAnimationFrame);

// An address of http or https, a path of the shop's own made whole; null for anything else.
function address(text) {
  const url = text && URL.canParse(text, document.baseURI) ? new URL(text, document.baseURI) : null;
  return url && ["http:", "https:"].includes(url.protocol) ? url.href : null;
}

function money(price, currency, locale) {
  try { return new Intl.NumberFormat(locale, { style: "currency", currency }).format(price); }
  catch { return `${price.toFixed(2)} ${currency}`; } // no locale or currency that Intl knows
}

// Not randomUUID, which pages without TLS lack.
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

function picture(item) {
  const source = address(item.image_url);
  const image = source && el("img", { src: source, alt: "", loading: "lazy", decoding: "async" }); // the title stands beside it
  image?.addEventListener("error", () => image.remove());
  return named("span", "image", {}, image);
}

function product(item, locale) {
  const url = address(item.url);
  const price = item.price === null ? "" : money(item.price, item.currency, locale);
  return named("li", "item", {}, named(url ? "a" : "div", "link", { href: url },
    picture(item), named("span", "title", { text: item.title }), named("span", "story", { text: item.story }),
    named("span", "price", { text: price })));
}

const ghosts = () => el("ul", { "aria-hidden": "true", part: "list" }, ...Array.from({ length: GHOSTS }, () => el("li", { class: "ghost", part: "ghost" })));

// Whether an element may have been painted: from then on, whatever takes room in view moves what people look at. What
// stood there before this script may have been, though the browser does not say so yet.
const painted = () => !awake || document.readyState !== "loading" || performance.getEntriesByType("paint").length > 0;

const oneColumn = (one, other) => one.left < other.right && other.left < one.right;

// Where what follows an element, or else one that holds it, begins; where nothing does, where its parent ends. What has no
// height is passed over, and so are our own that are not awake yet, and what stands apart from the flow, as a fixed bar:
// where they are says nothing of what people see.
function follows(element) {
  const box = (node) => node.getBoundingClientRect();
  const flows = (node) => !["absolute", "fixed"].includes(getComputedStyle(node).position);
  const seen = (node) => box(node).height > 0 && (node.localName !== NAME || present.has(node)) && flows(node);
  for (let at = element; at; at = at.parentElement) {
    for (let next = at.nextElementSibling; next; next = next.nextElementSibling) {
      if (seen(next) && (at === element || oneColumn(box(at), box(next)))) return box(next).top;
    }
  }
  return element.parentElement ? box(element.parentElement).bottom : 0;
}

// No browser keeps the answer to a POST by itself.
function keep(asked, answer, header) {
  for (const [question, { until }] of kept) if (until <= Date.now()) kept.delete(question);
  const seconds = Number(/max-age=(\d+)/.exec(header)?.[1] ?? 0);
  if (seconds) kept.set(asked, { answer, until: Date.now() + seconds * 1000 });
}

// --- the element ------------------------------------------------------------------------------------

class Recommendations extends HTMLElement {
  static observedAttributes = ["placement", "product-ids", "limit"];

  // Whether the customer agreed: true lets lists know the customer and tells what is looked at and clicked.
  static setConsent(given) {
    consent = given === true;
    kept.clear();
    for (const element of present) element.#watch();
  }

  #round = 0; // of asking: an answer to an earlier round is dropped
  #answer = null;
  #sizes = null; // SIZES in px while they are not the natural ones
  #turn = null; // of opening or closing: the latest goes on
  #told = []; // events on their way
  #seen = new Set();
  #watcher = null;
  #timers = new Map();
  #near = null;

  connectedCallback() {
    present.add(this);
    const before = painted() ? follows(this) : null;
    this.style.removeProperty("display"); // of one that was closed, and moved since
    this.#wait();
    if (before !== null) this.#grow(before);
    if (this.hasAttribute("lazy")) this.#whenNear();
    else this.#list();
  }

  disconnectedCallback() {
    this.#send();
    present.delete(this);
    this.#round++;
    this.#near?.disconnect();
    this.#watch();
  }

  attributeChangedCallback(_, before, now) {
    if (this.isConnected && this.#round && before !== now) this.#list();
  }

  // Ask for the list anew. Ends in one of the events rendered, empty, error; none where asked again meanwhile.
  refresh() { return this.#list(true); }

  async #list(anew = false) {
    const round = ++this.#round;
    await null; // attributes that are set one after the other are one question
    if (round !== this.#round) return;
    let answer = await this.#ask(anew).catch((fault) => fault);
    if (round !== this.#round) return;
    if (answer.items?.length) {
      try { this.#show(answer); }
      catch (fault) { answer = fault; kept.clear(); } // items that are none of ours
    }
    const failed = answer instanceof Error;
    const items = failed ? [] : answer.items;
    if (!items.length) await this.#clear();
    if (round !== this.#round) return;
    const detail = failed ? { message: answer.message } : { recommendation_id: answer.recommendation_id, items };
    this.dispatchEvent(new CustomEvent(failed ? "error" : items.length ? "rendered" : "empty", { detail }));
  }

  // --- asking

  get #endpoint() { return (address(this.getAttribute("endpoint")) ?? HOME).replace(/(\/v1)?\/*$/, ""); }

  #post(path, value, more = {}) {
    const key = this.getAttribute("key");
    const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
    return fetch(`${this.#endpoint}${path}`, { method: "POST", headers, body: JSON.stringify(value), credentials: "omit", referrerPolicy: "no-referrer", ...more });
  }

  #question(known) {
    const ids = (this.getAttribute("product-ids") ?? "").split(",").map((id) => id.trim()).filter(Boolean);
    const limit = Number(this.getAttribute("limit"));
    const token = known && consent ? this.getAttribute("customer-token") : null;
    return { product_ids: ids, ...(limit && { limit }), ...(token && { customer_token: token }) };
  }

  async #ask(anew, known = true) {
    const path = `/v1/recommend/${encodeURIComponent(this.getAttribute("placement") ?? "")}`;
    const question = this.#question(known);
    const given = consent;
    const asked = JSON.stringify([this.#endpoint, path, this.getAttribute("key"), question]);
    if (!anew && kept.get(asked)?.until > Date.now()) return kept.get(asked).answer;
    const response = await this.#post(path, question, { signal: AbortSignal.timeout(PATIENCE) });
    const body = await response.json();
    if (response.ok && Array.isArray(body.items)) {
      const answer = { ...body, known: Boolean(question.customer_token) };
      if (given === consent) keep(asked, answer, response.headers.get("Cache-Control"));
      return answer;
    }
    if (known && body.fields?.[0]?.field === "customer_token") return this.#ask(anew, false); // too old: a stranger's list
    throw new Error(body.error ?? `the service answered ${response.status}`);
  }

  #whenNear() {
    this.#near = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      this.#near.disconnect();
      this.#list();
    }, { rootMargin: NEAR });
    this.#near.observe(this);
  }

  // --- showing

  get #locale() { return this.getAttribute("locale") || this.closest("[lang]")?.lang || undefined; }

  #fill(list, busy) {
    const text = this.getAttribute("heading");
    const title = text && named("h2", "heading", { id: "heading", text });
    const name = title ? { "aria-labelledby": "heading" } : { "aria-label": "Recommendations" };
    const section = named("section", "section", { ...name, "aria-busy": String(busy) }, title, list);
    if (!this.shadowRoot) this.attachShadow({ mode: "open" }).adoptedStyleSheets = [SHEET];
    this.shadowRoot.replaceChildren(section);
  }

  #wait() { this.#fill(ghosts(), true); }

  #show(answer) {
    const rows = answer.items.map((item) => product(item, this.#locale));
    const list = named("ul", "list", { role: "list" }, ...rows); // the role, as Safari drops it with the bullets
    if (!list.querySelector("a")) list.tabIndex = 0; // so that the keyboard can scroll it
    rows.forEach((row, place) => {
      row.item = answer.items[place];
      for (const kind of ["click", "auxclick"]) row.querySelector("a")?.addEventListener(kind, (event) => this.#clicked(event, row.item));
    });
    this.#answer = answer;
    this.#seen.clear();
    this.#fill(list, false);
    this.#room(true);
    this.#watch();
  }

  async #clear() {
    this.#answer = null;
    this.#watch();
    const gone = this.#room(false);
    if (!calm.matches) await gone;
  }

  // --- room

  // Whether a change of height could be seen; below the view, none can.
  get #inView() { return this.getBoundingClientRect().top < innerHeight; }

  // An element that comes to life after the first paint starts with what follows it where that was, and grows.
  #grow(before) {
    const more = follows(this) - before;
    if (Math.abs(more) <= STEP) return;
    const sizes = this.#sizes = this.#natural();
    sizes[0] = Math.max(sizes[0] - more, 0);
    for (let tries = 0; tries < 3; tries++) { // as margins collapse, what one says is not always what it does
      this.#setSizes(sizes);
      sizes[BELOW] -= follows(this) - before;
    }
    this.#room(true);
  }

  #natural() {
    for (const size of [...SIZES, "min-block-size", "overflow", "display"]) this.style.removeProperty(size);
    this.#reach();
    const style = getComputedStyle(this);
    return SIZES.map((size) => parseFloat(style.getPropertyValue(size)) || 0);
  }

  #setSizes(sizes) {
    this.style.minBlockSize = "0";
    this.style.overflow = "hidden"; // which also keeps its two margins apart
    SIZES.forEach((size, place) => this.style.setProperty(size, `${sizes[place]}px`));
    this.#reach();
  }

  // What has not the room to be seen is nothing to the keyboard and to screen readers.
  #reach() {
    const section = this.shadowRoot?.firstElementChild, list = section?.querySelector("ul");
    if (!list) return;
    const was = section.inert;
    section.inert = this.scrollHeight > this.clientHeight || list.scrollHeight > list.clientHeight;
    if (section.inert !== was) this.#watch();
  }

  // How many of those that move stand above or below this one, itself among them: they share the STEP of a frame.
  get #together() {
    const own = this.getBoundingClientRect();
    const boxes = [...moving].map((other) => other.getBoundingClientRect());
    return Math.max(boxes.filter((other) => oneColumn(own, other)).length, 1);
  }

  // How much lower what follows stands than it would without the element: by margins that it keeps apart.
  get #apart() {
    const there = follows(this);
    this.style.display = "none";
    const without = follows(this);
    this.style.removeProperty("display");
    return there - without;
  }

  // Take the room of the list, or give it back: at once below the view, else so slowly that it is no shift.
  async #room(open) {
    if (open && !this.#sizes) return;
    const full = this.#natural();
    const goal = open ? full : full.map(() => 0);
    const sizes = this.#sizes ??= full;
    this.#setSizes(sizes);
    if (!open) this.shadowRoot.replaceChildren();
    const turn = this.#turn = {};
    const here = () => turn === this.#turn && this.isConnected;
    const move = async () => {
      while (sizes.some((size, place) => size !== goal[place]) && here()) {
        if (this.#inView) await (calm.matches ? this.#unseen() : frame());
        if (!here()) return;
        nearer(sizes, goal, this.#inView && !calm.matches ? STEP / this.#together : Infinity, open);
        this.#setSizes(sizes);
      }
    };
    moving.add(this);
    await move();
    if (!open && here()) {
      goal[BELOW] = -this.#apart;
      await move();
    }
    if (turn !== this.#turn) return;
    const rest = () => turn === this.#turn && moving.delete(this);
    if (this.#inView) requestAnimationFrame(rest); // its last step still counts in this frame
    else rest();
    if (open) {
      this.#natural();
      this.#sizes = null;
    } else if (here()) this.#leave(turn);
  }

  // Without any room left the element is as if it were not there. Where that moves something, as in a grid with gaps,
  // it is so once nobody sees it.
  async #leave(turn) {
    if (Math.abs(this.#apart) > STEP && this.#inView) await this.#unseen();
    if (turn === this.#turn) this.style.display = "none";
  }

  #unseen() {
    return new Promise((resolve) => {
      const observer = new IntersectionObserver((entries) => {
        if (entries.at(-1).isIntersecting) return;
        observer.disconnect();
        resolve();
      });
      observer.observe(this);
    });
  }

  // --- telling

  // Look after products that are shown, from now on: called whenever list, consent or the tab's visibility change.
  #watch() {
    this.#watcher?.disconnect();
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    if (!consent) this.#told = [];
    if (!consent || !this.#answer || !this.isConnected || document.visibilityState !== "visible") return;
    if (this.shadowRoot.firstElementChild.inert) return; // nobody can use it yet
    this.#watcher = new IntersectionObserver((entries) => entries.forEach((entry) => this.#looked(entry)), { threshold: SHOWN });
    for (const row of this.shadowRoot.querySelectorAll("li")) if (!this.#seen.has(row)) this.#watcher.observe(row);
  }

  #looked({ target: row, intersectionRatio }) {
    clearTimeout(this.#timers.get(row));
    if (intersectionRatio < SHOWN || this.#seen.has(row)) return;
    this.#timers.set(row, setTimeout(() => {
      this.#seen.add(row);
      this.#watcher.unobserve(row);
      this.#tell("impression", row.item);
    }, LOOKED_AT));
  }

  #clicked(event, item) {
    if (event.button > 1) return; // the right one opens a menu
    this.#tell("click", item);
    this.#send();
  }

  #tell(type, item) {
    if (!consent) return;
    if (!this.#told.length) setTimeout(() => this.#send(), GATHERED);
    const { recommendation_id, placement, known } = this.#answer;
    const customer_token = known ? this.getAttribute("customer-token") : null; // renewed or gone since, perhaps
    this.#told.push({
      event_id: newId(), event_type: type, occurred_at: new Date().toISOString(), product_id: item.product_id,
      recommendation_id, placement, channel: "web", ...(customer_token && { customer_token }),
    });
  }

  // fetch with keepalive outlives the page as a beacon does, and unlike one it can leave cookies at home.
  #send(events = this.#told.splice(0)) {
    if (events.length && consent) this.#post("/v1/events", { events }, { keepalive: true }).then((answer) => this.#again(events, answer)).catch(() => {});
  }

  // What was refused for its token, too old by now, is told of nobody.
  async #again(events, answer) {
    if (answer.status !== 207) return;
    const refused = (await answer.json()).events.filter(({ error }) => error?.startsWith("customer_token"));
    this.#send(refused.map(({ index }) => ({ ...events[index], customer_token: undefined })));
  }

  static #pageChanged() {
    for (const element of present) {
      element.#watch();
      if (document.visibilityState === "hidden") element.#send();
    }
  }

  static { document.addEventListener("visibilitychange", () => this.#pageChanged()); }
}

// One step of at most `most` px in all from sizes towards goal, in place. What is taken away last comes back first: else
// what follows an element would stand on it until its margin is back.
function nearer(sizes, goal, most, open) {
  for (let turn = 0; turn < sizes.length; turn++) {
    const place = open ? sizes.length - 1 - turn : turn;
    const left = goal[place] - sizes[place];
    const step = Math.sign(left) * Math.min(Math.abs(left), most);
    sizes[place] += step;
    most -= Math.abs(step);
  }
}

customElements.define(NAME, Recommendations);
awake = true;
window.OSCLMS = Object.freeze({ setConsent: Recommendations.setConsent });
})();
