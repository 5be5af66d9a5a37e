// Firefox with its fake camera, over WebDriver BiDi: a publisher without H.264, and a page whose faults are collected.
import { existsSync } from "node:fs";
import { networkInterfaces } from "node:os";
import puppeteer from "puppeteer-core";

const FIREFOX = process.env.FIREFOX || "/usr/bin/firefox-esr";

/** An address of this machine that is not loopback: Firefox sends no media to 127.0.0.1. */
export const ownAddress = Object.values(networkInterfaces()).flat()
  .find(({ family, internal }) => family === "IPv4" && !internal)?.address;

/** Why tests with Firefox cannot run here, or false. */
export const noFirefox = !existsSync(FIREFOX) ? `no Firefox at ${FIREFOX}; set FIREFOX`
  : !ownAddress ? "this machine has no address beside 127.0.0.1" : false;

export function launchFirefox() {
  return puppeteer.launch({
    browser: "firefox",
    executablePath: FIREFOX,
    headless: true,
    extraPrefsFirefox: {
      "media.navigator.streams.fake": true,
      "media.navigator.permission.disabled": true,
      "media.autoplay.default": 0,
    },
  });
}

/**
 * Opens a page in a context of its own.
 * @param {string} url
 * @param {object} [ports] Becomes the page's `SERVER_PORTS`.
 */
export async function openFirefoxTab(browser, url, ports) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(`uncaught: ${error.stack || error}`));
  page.on("console", (message) => { if (message.type() === "error") faults.push(`console: ${message.text()}`); });
  await page.evaluateOnNewDocument((serverPorts) => {
    if (serverPorts) window.SERVER_PORTS = serverPorts;
    window.peerConnections = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
      constructor(...parameters) {
        super(...parameters);
        window.peerConnections.push(this);
      }
    };
  }, ports);
  await page.goto(url);
  return {
    page,
    /** Waits until an element's text is one of `words`; tells what it was instead. */
    async text(selector, words, timeout = 30000) {
      const wanted = [words].flat();
      await page.waitForFunction((where, any) => any.includes(document.querySelector(where)?.textContent.trim()), { timeout }, selector, wanted)
        .catch(async (error) => {
          const found = await page.$eval(selector, (element) => element.textContent).catch(() => "nothing");
          const info = await page.$eval("#info", (element) => element.textContent).catch(() => "");
          throw new Error(`${selector} should have become ${wanted.join(" or ")}, is “${found}”; info “${info}”`, { cause: error });
        });
      return page.$eval(selector, (element) => element.textContent.trim());
    },
    /** Types over what is in a field. */
    async fill(selector, text) {
      await page.$eval(selector, (field, value) => {
        field.value = value;
        field.dispatchEvent(new Event("input", { bubbles: true }));
      }, text);
    },
    /** The newest connection: its descriptions, what it sends, and how that is encrypted. */
    connection() {
      return page.evaluate(async () => {
        const connection = window.peerConnections.at(-1);
        const found = { offer: connection.localDescription.sdp, answer: connection.remoteDescription.sdp };
        const reports = await connection.getStats();
        for (const report of reports.values()) {
          if (report.type === "outbound-rtp" && report.kind === "video") {
            Object.assign(found, { frames: report.framesEncoded, width: report.frameWidth, height: report.frameHeight });
            found.codec = reports.get(report.codecId)?.mimeType;
          }
          if (report.type === "transport") found.srtp = report.srtpCipher;
        }
        return found;
      });
    },
    /** Closes the tab as a reader does, and demands that nothing went wrong in it. */
    async close() {
      await context.close();
      if (faults.length) throw new Error(`faults in the page:\n${faults.join("\n")}`);
    },
  };
}
