// What a page shows and lets be heard: statistics of its connections, pictures and tones of its elements.
import { decodeDataUrl } from "./picture.mjs";

/** What the newest connection of a page that receives `kind` tells of it, or null. */
const inbound = (tab, kind) => tab.page.evaluate(async (wanted) => {
  for (const connection of [...window.peerConnections].reverse()) {
    const reports = await connection.getStats();
    for (const report of reports.values()) {
      if (report.type === "inbound-rtp" && report.kind === wanted) return { ...report, codec: reports.get(report.codecId)?.mimeType };
    }
  }
  return null;
}, kind);

/** The pictures that the newest receiving connection of a page gets, or null. */
export async function receiving(tab) {
  const report = await inbound(tab, "video");
  return report && {
    frames: report.framesDecoded ?? 0, keyframes: report.keyFramesDecoded, width: report.frameWidth, height: report.frameHeight,
    freezes: report.freezeCount, lost: report.packetsLost, plis: report.pliCount, dropped: report.framesDropped,
    delay: report.jitterBufferDelay / report.jitterBufferEmittedCount, codec: report.codec,
  };
}

/** The sound that the newest receiving connection of a page gets, or null. */
export async function hearing(tab) {
  const report = await inbound(tab, "audio");
  return report && { packets: report.packetsReceived, energy: report.totalAudioEnergy, concealed: report.concealedSamples, samples: report.totalSamplesReceived, codec: report.codec };
}

/** Whether an element shows a picture. */
export const isShown = (tab, selector) => tab.page.evaluate((where) => document.querySelector(where)?.videoWidth > 0 && document.querySelector(where).readyState >= 2, selector);

/** The picture that an element shows now. */
export const shown = async (tab, selector) => decodeDataUrl(await tab.page.evaluate((where) => {
  const video = document.querySelector(where);
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.toDataURL("image/png");
}, selector));

/**
 * The strongest tone that an element plays now: `{frequency, above}`, in hertz and in decibels above the middle of all others.
 * A pure tone stands some 60 dB above, noise and beeps some 20.
 */
export const tone = (tab, selector) => tab.page.evaluate(async (where) => {
  const video = document.querySelector(where);
  const stream = video.srcObject ?? video.captureStream();
  const key = stream.id;
  window.ears ??= new Map();
  if (!window.ears.has(key)) {
    window.listener ??= new AudioContext();
    const analyser = new AnalyserNode(window.listener, { fftSize: 8192, smoothingTimeConstant: 0, minDecibels: -160 });
    window.listener.createMediaStreamSource(stream).connect(analyser);
    window.ears.set(key, analyser);
  }
  const analyser = window.ears.get(key);
  const levels = new Float32Array(analyser.frequencyBinCount);
  analyser.getFloatFrequencyData(levels);
  const peak = levels.indexOf(Math.max(...levels));
  const middle = [...levels].sort((a, b) => a - b)[levels.length / 2];
  const above = levels[peak] - middle;
  return { frequency: (peak * window.listener.sampleRate) / analyser.fftSize, above: Number.isFinite(above) ? above : 0 };
}, selector);
