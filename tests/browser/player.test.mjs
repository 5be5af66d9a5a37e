// Our player page: streams and files, its controls, its words.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { AAC, H264, ffmpeg, patches, publish, sine } from "./support/media.mjs";
import { assertCamera, decode, decodeDataUrl } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { isShown, receiving, shown, tone } from "./support/watch.mjs";

const PAGE = "/client2/examples/demo/streaming/player/player.html";
const VIDEO = "#remoteVideo video";
const SECONDS = 6;

describe("player page", { skip: noBrowser, timeout: 300000 }, () => {
  let folder;
  let server;
  let camera;
  let encoder;
  let browser;

  before(async () => {
    camera = await makeCamera();
    folder = await mkdtemp(join(tmpdir(), "stillcast-media-"));
    await ffmpeg(...patches(camera), ...sine(1000), "-t", String(SECONDS), ...H264, ...AAC, join(folder, "film.mp4"));
    server = await startServer({ settings: { media_dir: folder, transcoding_disabled: true } });
    encoder = publish(...patches(camera), ...sine(700), ...H264, ...AAC, "-f", "flv", server.rtmp("cam"));
    browser = await launch();
    await until("the stream is live", async () => (await server.picture("cam")).status === 200);
  });
  after(async () => {
    await browser?.close();
    await encoder?.stop();
    await server?.close();
    await camera?.remove();
    await rm(folder, { recursive: true, force: true });
  });

  const open = (query = "", options = {}) => openTab(browser, (options.address || server.http(PAGE)) + query, { ports: { ws: server.ports.ws, wss: server.ports.wss }, ...options });
  const info = (tab) => tab.page.textContent("#info");

  async function play(tab, name) {
    if (name) await tab.page.fill("#streamName", name);
    await tab.click("#playBtn");
    await tab.text("#status", "PLAYING");
    await until("a picture", () => isShown(tab, VIDEO));
  }

  async function stop(tab) {
    await tab.click("#playBtn");
    await tab.text("#status", "STOPPED");
    assert.equal(await info(tab), "");
    assert.equal(await tab.page.locator(VIDEO).count(), 0);
    assert.equal(await tab.page.textContent("#playBtn"), "Play");
  }

  test("play a live stream: picture, tone, facts, snapshot, volume, mute, full screen, stop", async () => {
    const tab = await open("?streamName=cam");
    assert.ok(await tab.page.isDisabled("#snapshotBtn"));
    await play(tab);
    assertCamera(await shown(tab, VIDEO), "what is played");
    await until("the stream's tone", async () => Math.abs((await tone(tab, VIDEO)).frequency - 700) < 10);
    await until("the facts", async () => /^640 × 480, \d+ fps$/.test(await tab.page.textContent("#resolution")) && /^\d+(\.\d)? [kM]bit\/s$/.test(await tab.page.textContent("#rate")));
    await until("both codecs", async () => (await tab.page.textContent("#codecs")) === "H.264, Opus");
    assert.equal(await tab.page.textContent("#lost"), "0");

    await tab.click("#snapshotBtn");
    await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"]);
    const picture = decodeDataUrl(await tab.page.getAttribute("#dynImg", "src"));
    assertCamera(picture, "snapshot");
    assert.equal(await tab.page.textContent("#pictureSize"), "640 × 480");
    const [download] = await Promise.all([tab.page.waitForEvent("download"), tab.click("#download")]);
    assert.deepEqual(decode(await readFile(await download.path())).data, picture.data);
    assert.equal((await fetch(new URL(await tab.page.getAttribute("#pictureLink", "href"), server.http("/")))).status, 200);

    const sound = () => tab.page.evaluate((where) => { const { volume, muted } = document.querySelector(where); return { volume, muted }; }, VIDEO);
    assert.deepEqual(await sound(), { volume: 1, muted: false });
    await tab.page.focus("#volume");
    for (let presses = 0; presses < 10; presses += 1) await tab.page.keyboard.press("ArrowLeft");
    assert.deepEqual(await sound(), { volume: 0.5, muted: false });
    await tab.click("#muteBtn");
    assert.deepEqual(await sound(), { volume: 0.5, muted: true });
    assert.equal(await tab.page.getAttribute("#muteBtn", "aria-pressed"), "true");
    assert.ok(await tab.page.locator("#soundNote").isVisible());
    await tab.click("#muteBtn");
    assert.deepEqual(await sound(), { volume: 0.5, muted: false });
    assert.equal(await tab.page.locator("#soundNote").isVisible(), false);
    await tab.click("#fullScreenBtn");
    await until("full screen", () => tab.page.evaluate((where) => document.fullscreenElement === document.querySelector(where), VIDEO));
    await tab.page.evaluate(() => document.exitFullscreen());

    await stop(tab);
    for (const button of ["#muteBtn", "#volume", "#fullScreenBtn", "#snapshotBtn"]) assert.ok(await tab.page.isDisabled(button), button);
    await play(tab);
    assert.equal((await tab.page.evaluate((where) => document.querySelector(where).volume, VIDEO)), 0.5, "the volume stays");
    await stop(tab);
    assert.deepEqual([...tab.hosts], ["127.0.0.1"], "nothing comes from elsewhere");
    await tab.close();
  });

  test("a file plays to its end, gives a picture of itself, and can be stopped", async () => {
    const tab = await open();
    await play(tab, "vod://film.mp4");
    assertCamera(await shown(tab, VIDEO), "the film");
    await tab.click("#snapshotBtn");
    assert.equal(await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"]), "SNAPSHOT_COMPLETE");
    assertCamera(decodeDataUrl(await tab.page.getAttribute("#dynImg", "src")), "snapshot of the film");
    assert.equal(await tab.page.locator("#pictureLink").isVisible(), false, "nobody else can have a picture of it");
    await tab.text("#status", "STOPPED", (SECONDS + 10) * 1000);
    assert.equal(await info(tab), "The file is at its end.");
    await play(tab, "vod-live://film.mp4");
    await tab.click("#snapshotBtn");
    await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"]);
    assertCamera(decodeDataUrl(await tab.page.getAttribute("#dynImg", "src")), "snapshot of the film for all");
    await stop(tab);
    await tab.close();
  });

  test("what cannot be played is told in words, and the next try works", async () => {
    const tab = await open();
    for (const [name, words] of [
      ["", /Name a stream or a file first/],
      ["nobody", /^Nobody publishes “nobody” on this server\.$/],
      ["vod://nothing.mp4", /^File not found: .*“nothing\.mp4”/],
      ["vod-live://../film.mp4", /^File not found/],
      ["<img src=x onerror=alert(1)>", /Nobody publishes “<img/],
    ]) {
      await tab.page.fill("#streamName", name);
      await tab.click("#playBtn");
      await until(`the reason for “${name}”`, async () => words.test(await info(tab)) && (await tab.page.textContent("#status")) === "FAILED");
      assert.equal(await tab.page.textContent("#playBtn"), "Play");
    }
    assert.equal(await tab.page.locator("img[src='x']").count(), 0);
    await play(tab, "cam");
    await stop(tab);
    await tab.close();
  });

  test("size and rate are asked for as they are written, and by the address", async () => {
    const tab = await open("?streamName=cam&resolution=320x240");
    assert.equal(await tab.page.inputValue("#width"), "320");
    await tab.page.fill("#bitrate", "400");
    await tab.click("#playBtn");
    // This server makes nothing anew, and says so.
    await tab.text("#status", "FAILED");
    assert.match(await info(tab), /^Transcoding required, but disabled/);
    const { width, height, bitrate, hasVideo } = tab.frames.find((frame) => frame.sent && frame.message === "playStream").data[0];
    assert.deepEqual({ width, height, bitrate, hasVideo }, { width: 320, height: 240, bitrate: 400, hasVideo: true });
    for (const id of ["#width", "#height", "#bitrate"]) await tab.page.fill(id, "");
    await play(tab);
    await stop(tab);
    await tab.close();
  });

  test("a smaller picture comes from a server that makes pictures anew", async (context) => {
    const own = await startServer({ settings: { media_dir: folder } });
    context.after(() => own.close());
    const tab = await openTab(browser, `${own.http(PAGE)}?streamName=${encodeURIComponent("vod-live://film.mp4")}&resolution=320x240&autoplay=true`, { ports: { ws: own.ports.ws } });
    await tab.text("#status", "PLAYING");
    await until("the smaller picture", async () => (await tab.page.textContent("#resolution")).startsWith("320 × 240"));
    assertCamera(await shown(tab, VIDEO), "the smaller picture");
    await tab.close();
  });

  test("the address alone plays, without sound where the browser wants that", async () => {
    // The rule of browsers; Chromium's own lets streams through at times, without a head, and takes what a test asks a page for the
    // doing of its reader.
    const refuse = () => {
      const play = HTMLMediaElement.prototype.play;
      let isTouched = false;
      addEventListener("pointerdown", () => { isTouched = true; }, true);
      HTMLMediaElement.prototype.play = function () {
        const allowed = this.muted || isTouched;
        return allowed ? play.call(this) : Promise.reject(new DOMException("the user didn't interact with the document first", "NotAllowedError"));
      };
    };
    const tab = await open("?streamName=cam&autoplay=true", { prepare: (page) => page.addInitScript(refuse) });
    await tab.text("#status", "PLAYING");
    await until("a picture", () => isShown(tab, VIDEO));
    await until("the note", () => tab.page.locator("#soundNote").isVisible());
    assert.equal(await tab.page.textContent("#muteBtn"), "Unmute");
    await until("it moves", async () => (await receiving(tab))?.frames > 30);
    await tab.click("#muteBtn");
    assert.equal(await tab.page.evaluate((where) => document.querySelector(where).muted, VIDEO), false);
    assert.equal(await tab.page.textContent("#muteBtn"), "Mute");
    await until("the stream's tone", async () => Math.abs((await tone(tab, VIDEO)).frequency - 700) < 10);
    await tab.close();
  });

  test("stopping at once never hangs", async () => {
    const tab = await open("?streamName=cam");
    for (let time = 0; time < 3; time += 1) {
      await tab.click("#playBtn");
      await tab.page.waitForFunction(() => document.querySelector("#playBtn").textContent === "Stop");
      await tab.click("#playBtn");
      await tab.text("#status", "STOPPED");
    }
    await play(tab);
    await stop(tab);
    await until("no player is left", async () => (await server.rest("/stream/find", { published: false })).status === 404);
    await tab.close();
  });

  test("the publisher's end and a lost server are told in words", async (context) => {
    const own = await startServer();
    context.after(() => own.close());
    const source = publish(...patches(camera), ...H264, "-f", "flv", own.rtmp("short"));
    context.after(() => source.stop());
    const live = () => until("it is live", async () => (await own.picture("short")).status === 200);
    await live();
    const tab = await openTab(browser, `${own.http(PAGE)}?streamName=short`, { ports: { ws: own.ports.ws }, expected: [/WebSocket|ERR_CONNECTION/] });
    await play(tab);
    await source.stop();
    await tab.text("#status", "FAILED");
    assert.equal(await info(tab), "The publisher stopped or was lost.");
    const again = publish(...patches(camera), ...H264, "-f", "flv", own.rtmp("short"));
    context.after(() => again.stop());
    await live();
    await play(tab);
    await own.kill();
    await tab.text("#status", ["DISCONNECTED", "FAILED"]);
    assert.match(await info(tab), /was lost/);
    await tab.click("#playBtn");
    await tab.text("#status", "FAILED");
    assert.match(await info(tab), /Is the server running/);
    await tab.close();
  });

  test("the page is served at each address that the manuals print, over https too", async () => {
    for (const address of [server.http(PAGE.replace("client2", "client")), server.https(PAGE), `https://127.0.0.1:${server.ports.legacy_https}${PAGE}`]) {
      const tab = await open("?streamName=cam&autoplay=true", { address });
      await tab.text("#status", "PLAYING");
      await until("a picture", () => isShown(tab, VIDEO));
      await tab.close();
    }
  });

  test("keyboard alone is enough, and a phone's width too", async () => {
    const tab = await open("", { context: { viewport: { width: 360, height: 740 } } });
    const reach = async (id) => {
      for (let presses = 0; presses < 12; presses += 1) {
        await tab.page.keyboard.press("Tab");
        if (await tab.page.evaluate((wanted) => document.activeElement.id === wanted, id)) return;
      }
      assert.fail(`#${id} is not reached by Tab`);
    };
    await reach("streamName");
    await tab.page.keyboard.type("cam");
    await tab.page.keyboard.press("Enter");
    await tab.text("#status", "PLAYING");
    for (const id of ["muteBtn", "volume", "fullScreenBtn", "snapshotBtn"]) await reach(id);
    await tab.page.keyboard.press("Enter");
    await tab.text("#snapshotStatus", ["SNAPSHOT_COMPLETE", "FAILED"]);
    await reach("download");
    const named = await tab.page.getByRole("slider", { name: "Volume" }).count();
    assert.equal(named, 1);
    const { inner, content } = await tab.page.evaluate(() => ({ inner: innerWidth, content: document.documentElement.scrollWidth }));
    assert.ok(content <= inner, `the page is ${content} wide on a screen of ${inner}`);
    await tab.close();
  });
});
