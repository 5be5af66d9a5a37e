// The unmodified two-way and player pages: what one publishes the other plays, with every status that the manual names.
import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { assertCamera, blockPosition, decode } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { receiving, shown } from "./support/watch.mjs";
import { GENERATIONS, pagePath } from "./support/websdk.mjs";

for (const codecs of ["opus,h264,vp8", "opus,vp8,h264"]) describe(`unmodified pages play ${codecs.split(",")[1]}`, { skip: noBrowser, timeout: 300000 }, () => {
  const codec = codecs.split(",")[1].toUpperCase();
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    server = await startServer({ settings: { web_dir: GENERATIONS[0].folder, codecs } });
    browser = await launch({ camera: camera.path });
  });

  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  const open = (page, query = "") => openTab(browser, server.http(pagePath(page)) + query, { // The package leaves out pictures of the slider that its player page shows.
    ports: { ws: server.ports.ws, http: server.ports.http }, expected: [/images\/ui-/] });
  const statuses = (tab, id) => tab.frames.filter((frame) => !frame.sent && frame.message === "notifyStreamStatusEvent" && (!id || frame.data[0].mediaSessionId === id));

  test("two-way: publish, play, data, mute, stop, publisher stop", async () => {
    const tab = await open("two_way_streaming");
    await tab.page.fill("#urlServer", server.ws("/"));
    await tab.click("#connectBtn");
    await tab.text("#connectStatus", "ESTABLISHED");
    await tab.click("#publishBtn");
    await tab.text("#publishStatus", "PUBLISHING");
    await tab.click("#availableBtn");
    await tab.text("#availableStatus", "AVAILABLE");
    const clicked = Date.now();
    await tab.click("#playBtn");
    await tab.text("#playStatus", "PLAYING");
    await until("a frame is decoded", async () => (await receiving(tab))?.frames > 0);
    console.log(`${codec}: first frame ${Date.now() - clicked} ms after the click`);
    await until("frames go on", async () => (await receiving(tab))?.frames > 60);
    const seen = await receiving(tab);
    console.log(codec, seen);
    assert.equal(seen.lost, 0);
    const sizes = await tab.page.evaluate(() => { const video = document.querySelector("#remoteVideo video"); return [video.videoWidth, video.videoHeight, video.currentTime]; });
    assert.deepEqual(sizes.slice(0, 2), [seen.width, seen.height]);
    assert.ok(sizes[2] > 0.5, `it plays: ${sizes}`);
    assertCamera(await shown(tab, "#remoteVideo video"), "what is played");

    const playing = statuses(tab).find((frame) => frame.data[0].status === "PLAYING").data[0];
    assert.deepEqual(playing.audioState, { muted: false });
    assert.equal(playing.videoCodec, codec);
    const resize = tab.frames.find((frame) => frame.message === "notifyStreamEvent" && frame.data[0].type === "resize");
    assert.equal(resize.data[0].mediaSessionId, playing.mediaSessionId);
    assert.ok(resize.data[0].payload.streamerVideoWidth > 0);
    assert.ok(tab.frames.some((frame) => frame.message === "outboundVideoRate" && frame.data[0].videoRate > 0));
    assert.ok(tab.frames.some((frame) => frame.message === "inboundVideoRate" && frame.data[0].videoRate > 0));

    await tab.click("#sendDataBtn");
    await until("data arrives", async () => (await tab.page.locator("#receivedData").inputValue().catch(() => tab.page.locator("#receivedData").textContent())).includes("23"));
    await tab.page.evaluate(() => Flashphoner.getSessions()[0].getStreams().find((stream) => stream.published()).muteVideo());
    await until("the mute is told", () => tab.frames.some((frame) => frame.message === "notifyStreamEvent" && frame.data[0].type === "videoMuted"));
    await tab.page.evaluate(() => Flashphoner.getSessions()[0].getStreams().find((stream) => stream.published()).unmuteVideo());
    await until("and its end", () => tab.frames.some((frame) => frame.message === "notifyStreamEvent" && frame.data[0].type === "videoUnmuted"));

    if (process.env.SCREENSHOTS) {
      await mkdir(process.env.SCREENSHOTS, { recursive: true });
      await tab.page.screenshot({ path: `${process.env.SCREENSHOTS}/two_way_${codec}.png`, fullPage: true });
    }
    await tab.click("#playBtn");
    await tab.text("#playStatus", "STOPPED");
    await tab.click("#playBtn");
    await tab.text("#playStatus", "PLAYING");
    await until("it plays again", async () => (await receiving(tab))?.frames > 10);
    await tab.click("#publishBtn");
    await tab.text("#publishStatus", "UNPUBLISHED");
    await tab.text("#playStatus", "FAILED");
    await tab.text("#playInfo", "Related publisher stopped its stream or lost connection");
    await tab.click("#availableBtn");
    await tab.text("#availableStatus", "UNAVAILABLE");
    await tab.close();
  });

  test("player: a second browser context watches, takes a snapshot, and learns of the end", async () => {
    const publisher = await open("two_way_streaming");
    await publisher.page.fill("#urlServer", server.ws("/"));
    await publisher.click("#connectBtn");
    await publisher.text("#connectStatus", "ESTABLISHED");
    await publisher.page.fill("#publishStream", "cam1");
    await publisher.click("#publishBtn");
    await publisher.text("#publishStatus", "PUBLISHING");

    const viewers = [];
    for (let number = 0; number < 2; number += 1) {
      const tab = await open("player", "?streamName=cam1");
      await tab.page.fill("#url", server.ws("/"));
      await tab.click("#playBtn");
      await tab.text("#status", "PLAYING");
      await until("frames are decoded", async () => (await receiving(tab))?.frames > 30);
      viewers.push(tab);
    }
    const [tab] = viewers;
    assertCamera(await shown(tab, "#remoteVideo video"), "what is played");
    const before = blockPosition(await shown(tab, "#remoteVideo video"));
    await until("it moves", async () => blockPosition(await shown(tab, "#remoteVideo video")) !== before);
    const found = await server.rest("/stream/find_all", {});
    assert.equal(found.status, 200);

    const snapshot = await tab.page.evaluate(() => new Promise((resolve) => {
      const { STREAM_EVENT, STREAM_EVENT_TYPE } = Flashphoner.constants;
      const stream = Flashphoner.getSessions()[0].getStreams()[0];
      stream.on(STREAM_EVENT, (event) => {
        if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_COMPLETED) resolve(event.payload.snapshot);
        if (event.type === STREAM_EVENT_TYPE.SNAPSHOT_FAILED) resolve(event.payload.info);
      });
      stream.snapshot();
    }));
    assert.ok(snapshot.startsWith("iVBOR"), snapshot.slice(0, 100));
    assertCamera(decode(Buffer.from(snapshot, "base64")), "snapshot from the player");
    const more = (await receiving(tab)).frames + 20;
    await until("the stream goes on behind the snapshot", async () => (await receiving(tab)).frames > more);
    if (process.env.SCREENSHOTS) await tab.page.screenshot({ path: `${process.env.SCREENSHOTS}/player_${codec}.png`, fullPage: true });

    // One leaves by its button, the other is told that the publisher is gone, though nobody said goodbye.
    await viewers[1].click("#playBtn");
    await viewers[1].text("#status", "STOPPED");
    await viewers[1].close();
    await publisher.close();
    await tab.text("#status", "FAILED");
    assert.equal((await tab.page.locator("#info").textContent()).trim(), "Stopped by publisher stop");
    await tab.close();
  });

  test("player: an unknown stream", async () => {
    const tab = await open("player", "?streamName=nobody");
    await tab.page.fill("#url", server.ws("/"));
    await tab.click("#playBtn");
    await tab.text("#status", "FAILED");
    assert.equal((await tab.page.locator("#info").textContent()).trim(), "Stream not found");
    await tab.close();
  });
});
