// Sound of other codecs in the unmodified player: what an encoder sends as AAC is heard as the same tone, with a picture and alone.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { AAC, H264, patches, publish, sine } from "./support/media.mjs";
import { assertCamera } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";
import { hearing, isShown, receiving, shown, tone } from "./support/watch.mjs";
import { GENERATIONS, pagePath } from "./support/websdk.mjs";

const VIDEO = "#remoteVideo video";

describe("sound of encoders in the unmodified player", { skip: noBrowser, timeout: 300000 }, () => {
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    server = await startServer({ settings: { web_dir: GENERATIONS[0].folder } });
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  const isLive = async (name) => {
    const { status, body } = await server.rest("/stream/find", { name, published: true });
    return status === 200 && body[0].status === "PUBLISHING";
  };

  async function play(name) {
    // The package leaves out pictures of the slider that its player page shows.
    const tab = await openTab(browser, `${server.http(pagePath("player"))}?streamName=${name}`, { ports: { ws: server.ports.ws, http: server.ports.http }, expected: [/images\/ui-/] });
    await tab.click("#playBtn");
    await tab.text("#status", "PLAYING");
    return tab;
  }

  /** Fails unless the tone, and nothing else, is heard: again and again, so that no single lucky moment decides. */
  async function assertHears(tab, hertz) {
    await until(`a tone of ${hertz} Hz`, async () => {
      const { frequency, above } = await tone(tab, VIDEO);
      return above > 40 && Math.abs(frequency - hertz) < 10;
    });
    const before = await hearing(tab);
    assert.equal(before.codec, "audio/opus");
    let pure = 0;
    for (let time = 0; time < 10; time += 1) {
      await new Promise((resolve) => { setTimeout(resolve, 200); });
      const { frequency, above } = await tone(tab, VIDEO);
      if (above > 40 && Math.abs(frequency - hertz) < 10) pure += 1;
    }
    assert.ok(pure >= 8, `the tone was heard ${pure} times of 10`);
    const after = await hearing(tab);
    // The source's sine has an amplitude of 1/8, in two channels less by 3 dB, and the page plays it at half its loudness, which
    // Chromium counts sooner or later.
    const seconds = (after.samples - before.samples) / 48000;
    const power = (after.energy - before.energy) / seconds;
    assert.ok(power > 0.25 / 128 / 1.5 && power < 1 / 64 * 1.5, `${power} a second, for ${seconds} s`);
    const concealed = (after.concealed - before.concealed) / (after.samples - before.samples);
    // A busy machine loses some; half of it lost, or lasting too short, would be a fault.
    assert.ok(concealed < 0.3, `${Math.round(concealed * 100)} % of the sound was made up`);
  }

  for (const { title, channels, rate, hertz } of [
    { title: "one channel at 48 kHz", channels: 1, rate: 48000, hertz: 700 },
    { title: "two channels at 44.1 kHz", channels: 2, rate: 44100, hertz: 1200 },
  ]) {
    test(`AAC by RTMP, ${title}, with a picture`, async () => {
      const name = `film${channels}`;
      const encoder = publish(...patches(camera), ...sine(hertz), ...H264, ...AAC, "-ac", String(channels), "-ar", String(rate), "-f", "flv", server.rtmp(name));
      try {
        await until("it is live", () => isLive(name));
        const tab = await play(name);
        await until("a picture", () => isShown(tab, VIDEO));
        assertCamera(await shown(tab, VIDEO), "the encoder's picture");
        await assertHears(tab, hertz);
        // Both sides go on: neither waits for the other.
        const { frames } = await receiving(tab);
        await until("pictures go on", async () => (await receiving(tab)).frames > frames + 30);
        await tab.close();
      } finally {
        await encoder.stop();
      }
    });
  }

  test("AAC by RTMP without a picture plays", async () => {
    const encoder = publish(...sine(600), ...AAC, "-f", "flv", server.rtmp("radio"));
    try {
      await until("it is live", () => isLive("radio"));
      const tab = await play("radio");
      await assertHears(tab, 600);
      const time = () => tab.page.evaluate((where) => document.querySelector(where).currentTime, VIDEO);
      const before = await time();
      await until("the element plays", async () => (await time()) > before + 1);
      assert.equal(await receiving(tab).then((report) => report?.frames ?? 0), 0, "there is no picture");
      await tab.close();
    } finally {
      await encoder.stop();
    }
  });

  test("two viewers hear one tone, and the encoder's end ends both", async () => {
    const encoder = publish(...patches(camera), ...sine(900), ...H264, ...AAC, "-f", "flv", server.rtmp("pair"));
    try {
      await until("it is live", () => isLive("pair"));
      const tabs = [await play("pair"), await play("pair")];
      for (const tab of tabs) await assertHears(tab, 900);
      await encoder.stop();
      for (const tab of tabs) {
        await tab.text("#status", "FAILED");
        assert.equal((await tab.page.textContent("#info")).trim(), "Stopped by publisher stop");
        await tab.close();
      }
    } finally {
      await encoder.stop();
    }
  });
});
