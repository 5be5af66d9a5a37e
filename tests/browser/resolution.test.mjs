// The picture's size changes in mid-stream: by the browser's own climb from a small start, and by command.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { HEIGHT, WIDTH, makeCamera } from "./support/camera.mjs";
import { assertCamera, decode } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";

/** The camera is twice the usual, so that there is something to climb to. */
const SCALE = 2;

describe("resolution", { skip: noBrowser, timeout: 300000 }, () => {
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera({ scale: SCALE });
    server = await startServer({ settings: { video_bitrate_start_kbps: 0 } });
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  /** Publishes the whole camera with the demo page's library. */
  async function publish(name) {
    const tab = await openTab(browser, server.http("/client2/examples/demo/streaming/stream-snapshot/stream-snapshot.html"));
    await tab.page.evaluate(([urlServer, name, width, height]) => new Promise((resolve, reject) => {
      const failed = (ended) => reject(new Error(`${ended.status()} ${ended.getInfo()}`));
      Stillcast.createSession({ urlServer }).on(SESSION_STATUS.FAILED, failed).on(SESSION_STATUS.ESTABLISHED, (session) => {
        session.createStream({ name, constraints: { audio: false, video: { width, height } } })
          .on(STREAM_STATUS.PUBLISHING, () => resolve())
          .on(STREAM_STATUS.FAILED, failed)
          .publish();
      });
    }), [server.ws(), name, WIDTH * SCALE, HEIGHT * SCALE]);
    return tab;
  }

  /** The newest picture, which must be whole at any time. */
  async function picture(name) {
    const { status, bytes } = await server.picture(name);
    assert.equal(status, 200, bytes.toString());
    const decoded = decode(bytes);
    assertCamera(decoded, `at ${decoded.width}x${decoded.height}`);
    return decoded;
  }

  test("each picture is whole while the browser climbs from its small start", async () => {
    const tab = await publish("climbing");
    const widths = [];
    // On a busy machine the browser may stop below the camera's size.
    await until("twice the width of the start", async () => {
      const { width } = await picture("climbing");
      if (widths.at(-1) !== width) widths.push(width);
      return width >= 2 * widths[0];
    }, 90000).catch((error) => { throw new Error(`widths were ${widths}`, { cause: error }); });
    await tab.close();
  });

  test("each picture is whole while the size changes up and down", async () => {
    const tab = await publish("changing");
    // The camera's own size needs a bit rate that takes a while to reach.
    for (const divisor of [8, 4, 8, 4, 2]) {
      await tab.page.evaluate(async (scaleResolutionDownBy) => {
        const sender = window.peerConnections.at(-1).getSenders().find((candidate) => candidate.track.kind === "video");
        const parameters = sender.getParameters();
        Object.assign(parameters.encodings[0], { scaleResolutionDownBy });
        await sender.setParameters(parameters);
      }, divisor);
      const wanted = (WIDTH * SCALE) / divisor;
      await until(`pictures ${wanted} wide`, async () => (await picture("changing")).width === wanted, 30000);
    }
    await tab.close();
  });
});
