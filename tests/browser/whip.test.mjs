// Publishing by WHIP and playing by WHEP, with the client library of the protocols' own authors, which knows nothing of us.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch, noBrowser, openTab } from "./support/browser.mjs";
import { makeCamera } from "./support/camera.mjs";
import { assertCamera, decode } from "./support/picture.mjs";
import { startServer, until } from "./support/server.mjs";

const LIBRARY = new URL("node_modules/whip-whep/", import.meta.url);

describe("whip and whep", { skip: noBrowser, timeout: 120000 }, () => {
  let server;
  let camera;
  let browser;

  before(async () => {
    camera = await makeCamera();
    server = await startServer({ settings: { whip_token: "s3cret", web_dir: LIBRARY.pathname }, arguments: ["--demo"] });
    browser = await launch({ camera: camera.path });
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    await camera?.remove();
  });

  async function publish(tab, name, token) {
    return tab.page.evaluate(async ([stream, bearer]) => {
      const { WHIPClient } = await import("/client/whip.js");
      const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
      const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
      for (const track of media.getTracks()) connection.addTransceiver(track, { direction: "sendonly", streams: [media] });
      window.whip = new WHIPClient();
      await window.whip.publish(connection, `${location.origin}/whip/${encodeURIComponent(stream)}`, bearer);
    }, [name, token]);
  }

  const snapshot = (name) => fetch(server.http(`/snapshots/${encodeURIComponent(name)}.png`));

  test("a page publishes with the library, candidates and all, and stops", async () => {
    const tab = await openTab(browser, server.http("/health"));
    await publish(tab, "by whip/1", "s3cret");
    await until("the camera is seen", async () => (await snapshot("by whip/1")).status === 200);
    assertCamera(decode(Buffer.from(await (await snapshot("by whip/1")).arrayBuffer())));
    await tab.page.evaluate(() => window.whip.stop());
    assert.equal((await snapshot("by whip/1")).status, 404, "stopping frees the name before it is answered");
    await tab.close();
  });

  const players = async () => {
    const response = await fetch(server.http("/rest-api/stream/find"), { method: "POST", body: '{"published":false}' });
    return response.status === 200 ? response.json() : [];
  };

  test("a page plays with the library and stops", async () => {
    const tab = await openTab(browser, server.http("/health"));
    await tab.page.evaluate(async () => {
      const { WHEPClient } = await import("/client/whep.js");
      const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
      connection.addTransceiver("audio", { direction: "recvonly" });
      connection.addTransceiver("video", { direction: "recvonly" });
      const video = Object.assign(document.createElement("video"), { muted: true, autoplay: true });
      document.body.append(video);
      connection.ontrack = (event) => { if (event.track.kind === "video") video.srcObject = new MediaStream([event.track]); };
      window.whep = new WHEPClient();
      await window.whep.view(connection, `${location.origin}/whep/test`);
    });
    await until("pictures move", () => tab.page.evaluate(() => document.querySelector("video").getVideoPlaybackQuality().totalVideoFrames > 30));
    const size = await tab.page.evaluate(() => [document.querySelector("video").videoWidth, document.querySelector("video").videoHeight]);
    assert.deepEqual(size, [1280, 720]);
    assert.deepEqual((await players()).map((player) => [player.name, player.status]), [["test", "PLAYING"]]);
    await tab.page.evaluate(() => window.whep.stop());
    await until("the player is gone", async () => (await players()).length === 0);
    await tab.close();
  });

  test("a wrong token publishes nothing", async () => {
    const tab = await openTab(browser, server.http("/health"), { expected: [/401/] });
    await assert.rejects(publish(tab, "cam", "guess"), /401|Unauthorized|rejected/i);
    assert.equal((await snapshot("cam")).status, 404);
    await tab.close();
  });
});
