// Recording by pages, theirs and ours: the file is there when the page is told, is whole, and plays to its end.
import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { probe } from "./support/media.mjs";
import { assertCamera } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { isShown, receiving, shown } from "./support/watch.mjs";
import { GENERATIONS } from "./support/websdk.mjs";

const PAGE = "/client2/examples/demo/streaming/stream_recording/recording.html";
/** What is recorded at least, and what the moments between page and server may add. */
const SECONDS = 4;
const SLACK_S = 1.5;

/** Notes each word that stands in `#status` from now on. */
const noteStatuses = (tab) => tab.page.evaluate(() => {
  const status = document.querySelector("#status");
  window.noting?.disconnect();
  window.statuses = [];
  window.noting = new MutationObserver(() => window.statuses.push(status.textContent));
  window.noting.observe(status, { childList: true, characterData: true, subtree: true });
});

/** Publishes for as long as wanted and stops; resolves with how long the publication was, in seconds. */
async function record(tab) {
  await noteStatuses(tab);
  await tab.click("#publishBtn");
  await tab.text("#status", "PUBLISHING");
  const begun = performance.now();
  await until("enough is sent", async () => performance.now() - begun > SECONDS * 1000 && (await tab.sending())?.frames > 20);
  const seconds = (performance.now() - begun) / 1000;
  await tab.click("#publishBtn");
  await tab.text("#status", "UNPUBLISHED");
  const statuses = await tab.page.evaluate(() => window.statuses);
  assert.deepEqual(statuses.slice(-3), ["PUBLISHING", "PROCESSING", "UNPUBLISHED"]);
  return seconds;
}

/** Plays what `#recVideo` has to its end; resolves with what was seen of it. */
async function playToEnd(tab) {
  await until("the file's index", () => tab.page.evaluate(() => {
    const { readyState, error } = document.querySelector("#recVideo");
    if (error) throw new Error(error.message);
    return readyState >= 1;
  }));
  await tab.page.evaluate(() => {
    const video = document.querySelector("#recVideo");
    const context = new AudioContext();
    const analyser = new AnalyserNode(context, { fftSize: 2048 });
    context.createMediaElementSource(video).connect(analyser).connect(context.destination);
    const samples = new Float32Array(2048);
    window.loudest = 0;
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      window.loudest = Math.max(window.loudest, ...samples);
    }, 20);
    return video.play();
  });
  await until("a picture of the file", () => isShown(tab, "#recVideo"));
  const picture = await shown(tab, "#recVideo");
  await until("the file's end", () => tab.page.evaluate(() => document.querySelector("#recVideo").ended), (SECONDS + 15) * 1000);
  const seen = await tab.page.evaluate(() => {
    const video = document.querySelector("#recVideo");
    const { totalVideoFrames } = video.getVideoPlaybackQuality();
    return { duration: video.duration, currentTime: video.currentTime, width: video.videoWidth, height: video.videoHeight, frames: totalVideoFrames, loudest: window.loudest };
  });
  return { ...seen, picture };
}

for (const codec of ["h264", "vp8"]) describe(`recording of ${codec}`, { skip: noBrowser, timeout: 300000 }, () => {
  const other = { h264: "vp8", vp8: "h264" }[codec];
  const ending = { h264: "mp4", vp8: "webm" }[codec];
  let theirs;
  let ours;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    const settings = { codecs: `opus,${codec},${other}` };
    theirs = await startServer({ settings: { ...settings, web_dir: GENERATIONS[0].folder } });
    ours = await startServer({ settings });
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await ours?.close();
    await theirs?.close();
    await camera?.remove();
  });

  const open = (server, options = {}) => openTab(browser, server.http(PAGE), { ports: { ws: server.ports.ws, http: server.ports.http }, ...options });
  const recordsOf = (server) => join(server.folder, "data", "records");

  /** Compares the file with how long was published, and with what another program says. */
  async function assertFile(server, name, seconds, seen) {
    assert.match(name, new RegExp(`^[^/]+\\.${ending}$`));
    const file = join(recordsOf(server), name);
    const { seconds: length, video, audio } = await probe(file);
    assert.deepEqual([video.codec_name, audio.codec_name], [codec, "opus"]);
    assert.ok(Math.abs(length - seconds) < SLACK_S, `${length} s in the file, ${seconds} s published`);
    assert.ok(Math.abs(seen.duration - length) < 0.1, `the browser finds ${seen.duration} s, ffprobe ${length} s`);
    assert.ok(Math.abs(seen.currentTime - seen.duration) < 0.2, `it ended at ${seen.currentTime} of ${seen.duration} s`);
    assert.deepEqual([seen.width, seen.height], [video.width, video.height]);
    assert.ok(seen.frames > SECONDS * 15, `${seen.frames} pictures were shown`);
    assert.ok(seen.loudest > 0.02, `the microphone's beeps are not heard: ${seen.loudest}`);
    assertCamera(seen.picture, "the file");
  }

  test("the unmodified page: record, stop, link, and the file plays to its end", async () => {
    const tab = await open(theirs);
    const seconds = await record(tab);
    assert.ok(await tab.page.locator("#downloadDiv").isVisible());
    const link = await tab.page.getAttribute("#link", "href");
    const name = decodeURIComponent(new URL(link).pathname.slice("/client/records/".length));
    const answer = await fetch(link);
    assert.deepEqual([answer.status, answer.headers.get("content-type")], [200, `video/${ending}`]);
    assert.deepEqual(Buffer.from(await answer.arrayBuffer()), await readFile(join(recordsOf(theirs), name)));
    await assertFile(theirs, name, seconds, await playToEnd(tab));
    await tab.close();
  });

  test("our page: record, stop, facts, download, and the file plays to its end", async () => {
    const tab = await open(ours);
    const seconds = await record(tab);
    await until("the file's facts", async () => /^\d+\.\d+ [KM]iB$/.test(await tab.page.textContent("#fileBytes")) && /\d s\)$/.test(await tab.page.textContent("#fileLength")));
    const name = await tab.page.textContent("#fileName");
    assert.equal(await tab.page.textContent("#fileSize"), "640 × 480");
    const [download] = await Promise.all([tab.page.waitForEvent("download"), tab.click("#link")]);
    assert.equal(download.suggestedFilename(), name);
    assert.deepEqual(await readFile(await download.path()), await readFile(join(recordsOf(ours), name)));
    const seen = await playToEnd(tab);
    assert.equal(await tab.page.textContent("#fileLength"), `0:0${Math.floor(seen.duration)} (${seen.duration.toFixed(1)} s)`);
    await assertFile(ours, name, seconds, seen);
    assert.equal(await tab.page.locator("#fileNote").isVisible(), false);
    assert.deepEqual([...tab.hosts], ["127.0.0.1"], "nothing comes from elsewhere");

    // A second recording of the same visit is another file.
    await record(tab);
    await until("the other file", async () => (await tab.page.textContent("#fileName")) !== name);
    assert.equal((await readdir(recordsOf(ours))).filter((file) => !file.startsWith(".")).length, 2);
    await tab.close();
  });

  if (codec === "h264") test("what was recorded is played as a file on demand by the unmodified player", async (context) => {
    const [name] = (await readdir(recordsOf(theirs))).filter((file) => file.endsWith(".mp4"));
    const server = await startServer({ settings: { web_dir: GENERATIONS[0].folder, media_dir: recordsOf(theirs) } });
    context.after(() => server.close());
    const { seconds } = await probe(join(recordsOf(theirs), name));
    const page = "/client2/examples/demo/streaming/player/player.html";
    const tab = await openTab(browser, `${server.http(page)}?streamName=${encodeURIComponent(`vod://${name}`)}`, { ports: { ws: server.ports.ws }, expected: [/images\/ui-/] });
    await tab.click("#playBtn");
    await tab.text("#status", "PLAYING");
    await until("a picture", () => isShown(tab, "#remoteVideo video"));
    assertCamera(await shown(tab, "#remoteVideo video"), "the recording on demand");
    let frames = 0;
    await until("its end", async () => {
      frames = (await receiving(tab))?.frames ?? frames;
      return (await tab.page.textContent("#status")) === "STOPPED";
    }, (seconds + 10) * 1000);
    assert.ok(frames > seconds * 15, `${frames} pictures of ${seconds} s`);
    await tab.close();
  });

  if (codec === "h264") test("our page: a camera that is taken away, a name in use and a lost server are told in words", async (context) => {
    const first = await open(ours);
    await first.page.fill("#streamName", "taken");
    await first.click("#publishBtn");
    await first.text("#status", "PUBLISHING");
    const second = await open(ours);
    await second.page.fill("#streamName", "taken");
    await second.click("#publishBtn");
    await second.text("#status", "FAILED");
    assert.equal(await second.page.textContent("#info"), "Somebody already publishes “taken” here. Choose another name.");
    assert.equal(await second.page.textContent("#publishBtn"), "Record");
    await second.close();
    await first.close();

    const denying = await launch({ deny: true });
    context.after(() => denying.close());
    const refused = await openTab(denying, ours.http(PAGE), { ports: { ws: ours.ports.ws } });
    await refused.click("#publishBtn");
    await refused.text("#status", "FAILED");
    assert.match(await refused.page.textContent("#info"), /may not use the camera/);
    await refused.close();

    const mortal = await startServer();
    context.after(() => mortal.close());
    const tab = await open(mortal, { expected: [/WebSocket|ERR_CONNECTION/] });
    await tab.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    await mortal.kill();
    await tab.text("#status", ["DISCONNECTED", "FAILED"]);
    await until("the reason", async () => /was lost/.test(await tab.page.textContent("#info")));
    assert.match(await tab.page.textContent("#fileNote"), /^What was recorded until then is kept as “.+\.mp4”\.$/);
    assert.equal(await tab.page.textContent("#publishBtn"), "Record");
    await mortal.start();
    await record(tab);
    await tab.close();
  });

  if (codec === "h264") test("our page: a server that does not record says so", async (context) => {
    const server = await startServer({ settings: { record_streams: false } });
    context.after(() => server.close());
    const tab = await open(server);
    await tab.click("#publishBtn");
    await tab.text("#status", "PUBLISHING");
    assert.equal(await tab.page.textContent("#info"), "The camera is live, but the server does not record it.");
    await tab.click("#publishBtn");
    await tab.text("#status", "UNPUBLISHED");
    assert.equal(await tab.page.locator("#downloadDiv").isVisible(), false);
    await tab.close();
  });

  if (codec === "h264") test("our page: keyboard, and a phone's width", async () => {
    const tab = await open(ours, { context: { viewport: { width: 360, height: 740 } } });
    await tab.page.keyboard.press("Tab");
    await tab.page.focus("#streamName");
    await tab.page.keyboard.press("Enter");
    await tab.text("#status", "PUBLISHING");
    await tab.page.focus("#publishBtn");
    await until("something is sent", async () => (await tab.sending())?.frames > 10);
    await tab.page.keyboard.press("Space");
    await tab.text("#status", "UNPUBLISHED");
    await until("the file", () => tab.page.locator("#downloadDiv").isVisible());
    const { inner, content } = await tab.page.evaluate(() => ({ inner: innerWidth, content: document.documentElement.scrollWidth }));
    assert.ok(content <= inner, `the page is ${content} wide on a screen of ${inner}`);
    await tab.close();
  });
});
