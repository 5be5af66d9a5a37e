// What happens around a publication: TLS, keepalive, lost servers and tabs, files written on the side.
// The page is the unmodified one of the newest client package.
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { assertCamera, decode, decodeDataUrl } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { GENERATIONS, pagePath } from "./support/websdk.mjs";

const PAGE = pagePath("stream-snapshot");

describe("life of a publication", { skip: noBrowser, timeout: 300000 }, () => {
  let camera;
  let browser;
  let server;

  before(async () => {
    camera = await makeCamera();
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await camera?.remove();
  });
  afterEach(() => server?.close());

  async function start(settings = {}) {
    server = await startServer({ settings: { web_dir: GENERATIONS[0].folder, ...settings } });
  }

  const open = (url, expected = []) => openTab(browser, url, { ports: { ws: server.ports.ws, wss: server.ports.wss, http: server.ports.http, https: server.ports.https }, expected });

  async function publish(tab) {
    await tab.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    await until("a video frame is sent", async () => (await tab.sending())?.frames > 0);
    return (await tab.page.inputValue("#url")).split("/")[3];
  }

  async function snapshot(tab) {
    await tab.page.evaluate(() => document.querySelector("#dynImg").removeAttribute("src"));
    await tab.click("#snapshotBtn");
    await tab.page.waitForFunction(() => document.querySelector("#dynImg").naturalWidth > 0, null, { timeout: 10000 });
    return decodeDataUrl(await tab.page.getAttribute("#dynImg", "src"));
  }

  test("an https page publishes over wss", async () => {
    await start();
    const tab = await open(server.https(PAGE));
    assert.equal(new URL(await tab.page.inputValue("#url")).protocol, "wss:");
    await publish(tab);
    assertCamera(await snapshot(tab));
    await tab.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    await tab.close();
  });

  for (const [how, end] of [["stopped", () => server.stop()], ["killed", () => server.kill()]]) {
    test(`a server that is ${how} in mid-call is seen, and works again after its start`, async () => {
      await start();
      const tab = await open(server.http(PAGE), [/WebSocket/]);
      await publish(tab);
      await end();
      await tab.text("#status", ["DISCONNECTED", "FAILED"]);
      await tab.click("#publishBtn");
      await tab.text("#status", "FAILED");
      await server.start();
      const name = await publish(tab);
      assertCamera(await snapshot(tab));
      assert.equal((await server.rest("/stream/find", { name })).status, 200);
      await tab.close();
    });
  }

  test("a closed tab frees its name at once", async () => {
    await start();
    const first = await open(server.http(PAGE));
    const name = await publish(first);
    const second = await open(server.http(PAGE));
    await second.page.fill("#url", server.ws(`/${name}`));
    await first.close();
    assert.equal(await publish(second), name);
    assertCamera(await snapshot(second));
    await second.context.close();
    await until("the stream is gone", async () => (await server.rest("/stream/find", { name })).status === 404, 5000);
    second.demandNoFaults();
  });

  test("keepalive holds a connection longer than an unanswered one would last", async () => {
    await start({ "keep_alive.server_interval": 1000, "keep_alive.probes": 2 });
    const tab = await open(server.http(PAGE));
    await publish(tab);
    const pongs = () => tab.frames.filter((frame) => frame.sent && frame.message === "pong").length;
    // Two unanswered pings would have closed it long before the eleventh.
    await until("eleven pongs", () => pongs() >= 11, 30000);
    await tab.text("#status", "PUBLISHING");
    assertCamera(await snapshot(tab));
    await tab.close();
  });

  test("automatic snapshots land in the stream's folder, numbered, the newest kept", async () => {
    await start({ snapshot_auto_enabled: true, snapshot_auto_dir: "auto", snapshot_auto_naming: "streamName", snapshot_auto_rate: 10, snapshot_auto_retention: 5 });
    const tab = await open(server.http(PAGE));
    const name = await publish(tab);
    const folder = join(server.folder, "auto", name);
    const numbers = async () => (await readdir(folder)).map((file) => Number(/^(\d+)\.png$/.exec(file)?.[1])).filter(Number.isInteger).sort((a, b) => a - b);
    const kept = await until("files beyond the retention", async () => {
      const found = await numbers();
      return found.at(-1) >= 8 && found;
    }, 30000);
    assert.ok(kept.length <= 6, `kept are ${kept}`);
    assert.deepEqual(kept, kept.map((_, index) => kept[0] + index), "consecutive");
    await tab.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    let last = [];
    await until("no more files", async () => {
      const before = last;
      last = await numbers();
      return before.length && before.at(-1) === last.at(-1) && last.length === 5;
    });
    for (const number of last) assertCamera(decode(await readFile(join(folder, `${number}.png`))), `file ${number}`);
    await publish(tab);
    await until("numbers go on", async () => (await numbers()).at(-1) > last.at(-1), 20000);
    await tab.close();
  });
});
