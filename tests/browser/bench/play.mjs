// Plays streams in Chromium for `tools/bench-play`, with no library between the page and the protocol, and prints JSON.
//
// usage: node play.mjs first WS_URL HTTP_URL NAME ROUNDS      how long from play to the first frame
//        node play.mjs freezes WS_URL HTTP_URL NAME SECONDS LOSS DELAY_MS KBITS   how long pictures stand still behind a
//        network that loses such a share of datagrams, holds the others up so long each way, and carries so much (0: anything)
import { createSocket } from "node:dgram";
import { launch, openTab } from "../support/browser.mjs";

const [mode, ws, http, name, amount, loss, delayMs, kbits] = process.argv.slice(2);
/** What may wait for a narrow network, in milliseconds; the rest is lost, as in a router. */
const QUEUE_MS = 200;

/** The network: datagrams that come to the returned port go on to `port`, and back. */
async function network(port) {
  const [front, back] = [createSocket("udp4"), createSocket("udp4")];
  let client;
  const free = [0, 0];
  const underway = [[], []];
  const carry = (way, bytes, send) => {
    if (Math.random() < Number(loss)) return;
    const now = performance.now();
    free[way] = Math.max(now, free[way]);
    if (free[way] - now > QUEUE_MS) return;
    if (Number(kbits)) free[way] += (bytes.length + 28) * 8 / Number(kbits);
    underway[way].push(send);
    // Timers of different lengths may overtake each other; datagrams do not.
    setTimeout(() => underway[way].shift()(), free[way] - now + Number(delayMs));
  };
  front.on("message", (bytes, from) => {
    client = from;
    carry(0, bytes, () => back.send(bytes, port, "127.0.0.1"));
  });
  back.on("message", (bytes) => carry(1, bytes, () => front.send(bytes, client.port, client.address)));
  await new Promise((resolve) => { front.bind(0, "127.0.0.1", resolve); });
  await new Promise((resolve) => { back.bind(0, "127.0.0.1", resolve); });
  for (const socket of [front, back]) socket.unref();
  return front.address().port;
}

/** In the page: a session as client libraries open it, and a player on top of it. */
function install() {
  window.openSession = (url) => new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    const session = { answers: new Map() };
    session.say = (message, argument) => socket.send(JSON.stringify({ message, data: [argument] }));
    socket.onerror = () => reject(new Error("no connection"));
    socket.onopen = () => session.say("connection", {
      appKey: "defaultApp", mediaProviders: ["WebRTC"], clientVersion: "2.0", clientOSVersion: "none", clientBrowserVersion: "none",
      msePacketizationVersion: 2, clientInfo: {},
    });
    socket.onmessage = ({ data }) => {
      const { message, data: [first, second] } = JSON.parse(data);
      if (message === "getUserData") resolve(session);
      if (message === "ping") session.say("pong", null);
      if (message === "setRemoteSDP") session.answers.get(first)?.resolve(second);
      if (message === "notifyStreamStatusEvent" && first.status === "FAILED") session.answers.get(first.mediaSessionId)?.reject(new Error(first.info));
    };
  });
  /** Milliseconds from the wish to play to the first decoded frame and to the first shown one, and what is needed to go on. */
  window.play = async (session, name) => {
    const began = performance.now();
    const connection = new RTCPeerConnection();
    const video = Object.assign(document.createElement("video"), { muted: true, autoplay: true });
    document.body.append(video);
    const shown = new Promise((resolve) => video.requestVideoFrameCallback(() => resolve(performance.now() - began)));
    connection.ontrack = ({ streams: [stream] }) => { video.srcObject = stream; };
    connection.addTransceiver("audio", { direction: "recvonly" });
    const { receiver } = connection.addTransceiver("video", { direction: "recvonly" });
    await connection.setLocalDescription();
    const mediaSessionId = crypto.randomUUID ? crypto.randomUUID() : `m${Math.random()}`;
    const answer = new Promise((resolve, reject) => session.answers.set(mediaSessionId, { resolve, reject }));
    session.say("playStream", {
      mediaSessionId, name, hasVideo: true, hasAudio: true, mediaProvider: "WebRTC", status: "PENDING", published: false, record: false,
      sdp: connection.localDescription.sdp, bitrate: 0, minBitrate: 0, maxBitrate: 0, width: 0, height: 0,
    });
    let sdp = await answer;
    if (window.network) {
      const [, before, port, behind] = /(a=candidate:\S+ 1 udp \d+ 127\.0\.0\.1 )(\d+)( .*)/.exec(sdp);
      sdp = sdp.replace(/a=candidate:.*\r\n/g, "").replace(/a=mid:/g, `${before}${await window.network(Number(port))}${behind}\r\na=mid:`);
    }
    await connection.setRemoteDescription({ type: "answer", sdp });
    const answered = performance.now() - began;
    const statistics = async () => {
      for (const report of (await receiver.getStats()).values()) if (report.type === "inbound-rtp") return report;
      return {};
    };
    while (!(await statistics()).framesDecoded) await new Promise((resolve) => { setTimeout(resolve, 2); });
    const decoded = performance.now() - began;
    return { answered, decoded, shown: await shown, statistics, stop() {
      session.say("stopStream", { mediaSessionId });
      connection.close();
      video.remove();
    } };
  };
}

const browser = await launch();
try {
  const tab = await openTab(browser, http, { expected: [/./], context: { bypassCSP: true } });
  await tab.page.evaluate(install);
  if (mode === "freezes") await tab.page.exposeFunction("network", network);
  const result = await tab.page.evaluate(async ([mode, ws, name, amount]) => {
    const session = await window.openSession(ws);
    const rounds = [];
    if (mode === "first") {
      for (let round = 0; round < amount; round += 1) {
        const player = await window.play(session, name);
        rounds.push({ answered: player.answered, decoded: player.decoded, shown: player.shown });
        player.stop();
        // At another moment of the group of pictures each time.
        await new Promise((resolve) => { setTimeout(resolve, 300 + (round * 618) % 1000); });
      }
      return rounds;
    }
    const player = await window.play(session, name);
    const before = await player.statistics();
    await new Promise((resolve) => { setTimeout(resolve, amount * 1000); });
    const after = await player.statistics();
    const since = (key) => (after[key] ?? 0) - (before[key] ?? 0);
    const keys = ["framesDecoded", "framesDropped", "freezeCount", "totalFreezesDuration", "pauseCount", "totalPausesDuration", "packetsReceived",
      "packetsLost", "nackCount", "pliCount", "keyFramesDecoded", "retransmittedPacketsReceived", "bytesReceived"];
    player.stop();
    return Object.fromEntries(keys.map((key) => [key, since(key)]));
  }, [mode, ws, name, Number(amount)]);
  console.log(JSON.stringify(result));
  await tab.context.close();
} finally {
  await browser.close();
}
