// Our two-way page: publish on one side, play on the other, and what goes beside the media.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { assertCamera, decodeDataUrl } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { isShown, receiving, shown } from "./support/watch.mjs";

const PAGE = "/client2/examples/demo/streaming/two_way_streaming/two_way_streaming.html";
const VIDEO = "#remoteVideo video";

describe("two-way page", { skip: noBrowser, timeout: 300000 }, () => {
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    server = await startServer();
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  const open = (query = "", options = {}) => openTab(browser, (options.address || server.http(PAGE)) + query, { ports: { ws: server.ports.ws, wss: server.ports.wss }, ...options });
  const events = (tab) => tab.page.locator("#receivedData li").allTextContents();
  const logged = (tab, words) => until(`“${words}” in the log`, async () => (await events(tab)).some((line) => line.endsWith(words)));

  async function publish(tab, name) {
    if (name) await tab.page.fill("#publishStream", name);
    await tab.click("#publishBtn");
    await tab.text("#publishStatus", "PUBLISHING");
    return tab.page.inputValue("#publishStream");
  }

  async function play(tab, name) {
    if (name) await tab.page.fill("#playStream", name);
    await tab.click("#playBtn");
    await tab.text("#playStatus", "PLAYING");
    await until("a picture", () => isShown(tab, VIDEO));
  }

  async function available(tab) {
    await tab.click("#availableBtn");
    return tab.text("#availableStatus", ["AVAILABLE", "UNAVAILABLE", "FAILED"]);
  }

  test("publish, ask, play, send data, mute, take a snapshot, stop, on one page", async () => {
    const tab = await open();
    assert.equal(await tab.page.inputValue("#playStream"), await tab.page.inputValue("#publishStream"), "it plays what it publishes");
    assert.equal(await available(tab), "UNAVAILABLE");
    const name = await publish(tab);
    assert.equal(await available(tab), "AVAILABLE");
    assert.equal(await tab.page.textContent("#availableInfo"), `“${name}” can be played.`);
    await play(tab);
    assertCamera(await shown(tab, VIDEO), "what is played");
    await until("the facts of both sides", async () => /^640 × 480, \d+ fps$/.test(await tab.page.textContent("#resolution")) && (await tab.page.textContent("#sentSize")) === "640 × 480");
    for (const codecs of ["#codecs", "#sentCodecs"]) await until(codecs, async () => (await tab.page.textContent(codecs)) === "H.264, Opus");
    await logged(tab, "Size: 640 × 480");

    await tab.click("#sendDataBtn");
    await logged(tab, 'Data: {"count":23}');
    for (const [written, told] of [
      ["plain words", 'Data: {"text":"plain words"}'], ["7", 'Data: {"value":7}'],
      ["<img src=x onerror=alert(1)>", 'Data: {"text":"<img src=x onerror=alert(1)>"}'], ['{"a":[1,{"b":null}]}', 'Data: {"a":[1,{"b":null}]}'],
    ]) {
      await tab.page.fill("#streamData", written);
      await tab.page.press("#streamData", "Enter");
      await logged(tab, told);
    }
    assert.equal(await tab.page.locator("img[src='x']").count(), 0, "data is text");

    await tab.click("#microphoneBtn");
    await logged(tab, "Microphone off");
    assert.equal(await tab.page.getAttribute("#microphoneBtn", "aria-pressed"), "true");
    await tab.click("#cameraBtn");
    await logged(tab, "Camera off");
    assert.equal(await tab.page.textContent("#streamNote"), "The publisher has turned the camera and the microphone off.");
    await tab.click("#microphoneBtn");
    await logged(tab, "Microphone on");
    await tab.click("#cameraBtn");
    await logged(tab, "Camera on");
    await until("the note is gone", async () => !(await tab.page.locator("#streamNote").isVisible()));

    await until("the camera is back", async () => {
      await tab.click("#snapshotBtn");
      if ((await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"])) !== "SNAPSHOT_COMPLETE") return false;
      const picture = decodeDataUrl(await tab.page.getAttribute("#dynImg", "src"));
      return picture.data.some((value, at) => at % 4 < 3 && value > 100) && picture;
    }).then((picture) => assertCamera(picture, "snapshot"));

    await tab.click("#playBtn");
    await tab.text("#playStatus", "STOPPED");
    await play(tab);
    await tab.click("#publishBtn");
    await tab.text("#publishStatus", "UNPUBLISHED");
    await tab.text("#playStatus", "FAILED");
    assert.equal(await tab.page.textContent("#playInfo"), "The publisher stopped or was lost.");
    assert.equal(await available(tab), "UNAVAILABLE");
    assert.equal(await tab.page.textContent("#availableInfo"), `Nobody publishes “${name}” on this server.`);
    assert.ok(await tab.page.isEnabled("#url"), "the address can be changed again");
    assert.deepEqual([...tab.hosts], ["127.0.0.1"], "nothing comes from elsewhere");
    await tab.close();
  });

  test("two people see each other, and who comes late is told what is turned off", async () => {
    const anna = await open("?name=anna&streamName=bert");
    const bert = await open("?name=bert&streamName=anna");
    await publish(anna);
    await anna.click("#microphoneBtn");
    await publish(bert);
    await play(anna);
    await play(bert);
    await until("bert is told", async () => (await bert.page.textContent("#streamNote")) === "The publisher has turned the microphone off.");
    await anna.page.fill("#streamData", "hello bert");
    await anna.click("#sendDataBtn");
    await logged(bert, 'Data: {"text":"hello bert"}');
    assert.ok(!(await events(anna)).some((line) => line.includes("hello")), "nobody hears what is not meant for them");
    for (const tab of [anna, bert]) {
      const { frames } = await receiving(tab);
      await until("pictures go on", async () => (await receiving(tab)).frames > frames + 20);
    }
    await anna.close();
    await bert.text("#playStatus", "FAILED");
    await bert.text("#publishStatus", "PUBLISHING");
    await bert.close();
  });

  test("failures are told in words, on the side where they happen", async () => {
    const first = await open();
    const name = await publish(first);
    const tab = await open();
    await tab.page.fill("#publishStream", name);
    await tab.click("#publishBtn");
    await tab.text("#publishStatus", "FAILED");
    assert.equal(await tab.page.textContent("#publishInfo"), `Somebody already publishes “${name}” here. Choose another name.`);
    assert.equal(await tab.page.textContent("#playStatus"), "");
    await tab.page.fill("#playStream", "nobody");
    await tab.click("#playBtn");
    await tab.text("#playStatus", "FAILED");
    assert.equal(await tab.page.textContent("#playInfo"), "Nobody publishes “nobody” on this server.");
    await tab.page.fill("#playStream", "");
    await tab.click("#playBtn");
    await until("the reason", async () => (await tab.page.textContent("#playInfo")) === "Name a stream first.");
    await tab.close();
    await first.text("#publishStatus", "PUBLISHING");
    await first.close();
  });

  test("a lost server is told on both sides, and a new start works", async (context) => {
    const own = await startServer();
    context.after(() => own.close());
    const tab = await openTab(browser, own.http(PAGE), { ports: { ws: own.ports.ws }, expected: [/WebSocket|ERR_CONNECTION/] });
    await publish(tab);
    await play(tab);
    await own.kill();
    for (const side of ["publish", "play"]) {
      await tab.text(`#${side}Status`, "FAILED");
      assert.equal(await tab.page.textContent(`#${side}Info`), "The connection was lost.");
    }
    await tab.click("#playBtn");
    await until("the reason", async () => /Is the server running/.test(await tab.page.textContent("#playInfo")));
    assert.equal(await available(tab), "FAILED");
    await own.start();
    await publish(tab);
    await play(tab);
    await tab.close();
  });

  test("stopping at once never hangs", async () => {
    const tab = await open();
    for (let time = 0; time < 2; time += 1) {
      await tab.click("#publishBtn");
      await tab.page.waitForFunction(() => document.querySelector("#publishBtn").textContent === "Stop");
      await tab.click("#publishBtn");
      await tab.text("#publishStatus", "UNPUBLISHED");
    }
    await publish(tab);
    for (let time = 0; time < 2; time += 1) {
      await tab.click("#playBtn");
      await tab.page.waitForFunction(() => document.querySelector("#playBtn").textContent === "Stop");
      await tab.click("#playBtn");
      await tab.text("#playStatus", "STOPPED");
    }
    await play(tab);
    await tab.close();
  });

  test("both prefixes, https, keyboard and a phone's width", async () => {
    const tab = await open("", { address: server.https(PAGE.replace("client2", "client")), context: { viewport: { width: 360, height: 740 } } });
    assert.equal(await tab.page.inputValue("#url"), `wss://127.0.0.1:${server.ports.wss}`);
    const reach = async (id) => {
      for (let presses = 0; presses < 15; presses += 1) {
        await tab.page.keyboard.press("Tab");
        if (await tab.page.evaluate((wanted) => document.activeElement.id === wanted, id)) return;
      }
      assert.fail(`#${id} is not reached by Tab`);
    };
    await reach("publishStream");
    await tab.page.keyboard.press("Enter");
    await tab.text("#publishStatus", "PUBLISHING");
    await reach("playStream");
    await tab.page.keyboard.press("Enter");
    await tab.text("#playStatus", "PLAYING");
    for (const id of ["availableBtn", "muteBtn", "volume", "fullScreenBtn", "snapshotBtn", "receivedData"]) await reach(id);
    assert.equal(await tab.page.getByRole("log", { name: "What comes with the stream" }).count(), 1);
    const { inner, content } = await tab.page.evaluate(() => ({ inner: innerWidth, content: document.documentElement.scrollWidth }));
    assert.ok(content <= inner, `the page is ${content} wide on a screen of ${inner}`);
    await tab.close();
  });
});
