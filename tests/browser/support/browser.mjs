// Chromium with a fake camera, and pages whose faults are collected.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM || "/usr/bin/chromium";

/** Why browser tests cannot run here, or false. */
export const noBrowser = existsSync(CHROMIUM) ? false : `no Chromium at ${CHROMIUM}; set CHROMIUM`;

/**
 * @param {object} options
 * @param {string} [options.camera] File that the fake camera shows.
 * @param {boolean} [options.deny] The camera question is answered with no.
 */
export function launch({ camera, deny = false } = {}) {
  return chromium.launch({
    executablePath: CHROMIUM,
    headless: true,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
      "--use-fake-device-for-media-stream",
      deny ? "--use-fake-ui-for-media-stream=deny" : "--use-fake-ui-for-media-stream",
      "--autoplay-policy=no-user-gesture-required",
      ...(camera ? [`--use-file-for-fake-video-capture=${camera}`] : []),
    ],
  });
}

/**
 * Opens a page in a context of its own.
 * @param {import("playwright-core").Browser} browser
 * @param {string} url
 * @param {object} [options]
 * @param {object} [options.ports] Becomes the page's `SERVER_PORTS`.
 * @param {RegExp[]} [options.expected] Console errors that belong to the test.
 * @param {object} [options.context] Options of the browser context.
 * @returns {Promise<Tab>}
 */
export async function openTab(browser, url, { ports, expected = [], context = {}, prepare } = {}) {
  const made = await browser.newContext({ ignoreHTTPSErrors: true, acceptDownloads: true, ...context });
  const page = await made.newPage();
  const tab = new Tab(made, page, expected);
  await page.addInitScript((serverPorts) => {
    if (serverPorts) window.SERVER_PORTS = serverPorts;
    // Statistics are read from the connections that the client library makes.
    window.peerConnections = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
      constructor(...parameters) {
        super(...parameters);
        window.peerConnections.push(this);
      }
    };
  }, ports);
  if (prepare) await prepare(page);
  await page.goto(url);
  return tab;
}

export class Tab {
  constructor(context, page, expected) {
    this.context = context;
    this.page = page;
    /** What went wrong in the page. @type {string[]} */
    this.faults = [];
    /** Hosts that the page asked for anything. */
    this.hosts = new Set();
    /** Signalling frames both ways: `{sent: boolean, message: string, data: any[]}`. */
    this.frames = [];
    const fault = (text) => {
      if (!expected.some((pattern) => pattern.test(text))) this.faults.push(text);
    };
    page.on("pageerror", (error) => fault(`uncaught: ${error.stack || error}`));
    page.on("console", (message) => {
      const { url } = message.location();
      // The client packages bring no favicon.
      if (message.type() === "error" && !url.endsWith("/favicon.ico")) fault(`console: ${message.text()} ${url}`);
    });
    page.on("request", (request) => { if (/^https?:/.test(request.url())) this.hosts.add(new URL(request.url()).hostname); });
    page.on("websocket", (socket) => {
      const record = (sent) => ({ payload }) => this.frames.push({ sent, ...JSON.parse(payload) });
      socket.on("framesent", record(true));
      socket.on("framereceived", record(false));
    });
  }

  /** Waits until an element's text is (one of) `words`; tells what it was instead. */
  async text(selector, words, timeout = 20000) {
    const wanted = [words].flat();
    try {
      await this.page.waitForFunction(([where, any]) => any.includes(document.querySelector(where)?.textContent.trim()), [selector, wanted], { timeout });
    } catch (error) {
      const found = await this.page.locator(selector).textContent();
      throw new Error(`${selector} should have become ${wanted.join(" or ")}, is “${found}”; info “${await this.page.locator("#info").textContent().catch(() => "")}”`, { cause: error });
    }
    return (await this.page.locator(selector).textContent()).trim();
  }

  /** Clicks as soon as the button is enabled. */
  async click(selector) {
    await this.page.locator(selector).click();
  }

  /** What is being sent: `{width, height, frames}` of the newest connection, or null. */
  sending() {
    return this.page.evaluate(async () => {
      const connection = window.peerConnections.at(-1);
      if (!connection) return null;
      for (const report of (await connection.getStats()).values()) {
        if (report.type === "outbound-rtp" && report.kind === "video") {
          return { width: report.frameWidth, height: report.frameHeight, frames: report.framesEncoded, codec: report.codecId };
        }
      }
      return null;
    });
  }

  /** Closes the tab as a reader does, and demands that nothing went wrong in it. */
  async close() {
    await this.context.close();
    this.demandNoFaults();
  }

  demandNoFaults() {
    const faults = this.faults.splice(0);
    if (faults.length) throw new Error(`faults in the page:\n${faults.join("\n")}`);
  }
}
