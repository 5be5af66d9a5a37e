// Reads PNG files and compares them with what the camera showed.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { BLOCK, COLOURS, HEIGHT, WIDTH, patchPlace } from "./camera.mjs";

const { PNG } = createRequire(import.meta.url)("pngjs");

/** Difference allowed in each channel: what video coding at its low start rate does to an even patch. */
const TOLERANCE = 24;

/** @param {Buffer} bytes A PNG file; checksums are checked. @returns {{width: number, height: number, data: Buffer}} RGBA. */
export function decode(bytes) {
  return PNG.sync.read(bytes);
}

/** @param {string} source `data:image/png;base64,…` */
export function decodeDataUrl(source) {
  const prefix = "data:image/png;base64,";
  assert.ok(source.startsWith(prefix), `not a PNG: ${source.slice(0, 60)}`);
  return decode(Buffer.from(source.slice(prefix.length), "base64"));
}

/** Mean and greatest deviation of the inner part of a patch, each channel. */
function patch(picture, index) {
  const place = patchPlace(index);
  const left = Math.ceil((place.left + place.width * 0.15) * picture.width);
  const right = Math.floor((place.left + place.width * 0.85) * picture.width);
  const top = Math.ceil((place.top + place.height * 0.15) * picture.height);
  const bottom = Math.floor((place.top + place.height * 0.85) * picture.height);
  const sum = [0, 0, 0];
  let count = 0;
  for (let y = top; y < bottom; y += 1) {
    for (let x = left; x < right; x += 1) {
      for (let channel = 0; channel < 3; channel += 1) sum[channel] += picture.data[(y * picture.width + x) * 4 + channel];
      count += 1;
    }
  }
  const mean = sum.map((value) => value / count);
  let deviation = 0;
  for (let y = top; y < bottom; y += 1) {
    for (let x = left; x < right; x += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        deviation = Math.max(deviation, Math.abs(picture.data[(y * picture.width + x) * 4 + channel] - mean[channel]));
      }
    }
  }
  return { mean, deviation };
}

/** Fails unless the picture is the camera's: its shape, each patch of its colour, and nothing smeared into a patch. */
export function assertCamera(picture, what = "picture") {
  const ratio = picture.width / picture.height / (WIDTH / HEIGHT);
  assert.ok(Math.abs(ratio - 1) < 0.02, `${what}: ${picture.width}x${picture.height} has not the camera's shape`);
  COLOURS.forEach((colour, index) => {
    const { mean, deviation } = patch(picture, index);
    const rounded = mean.map(Math.round);
    assert.ok(mean.every((value, channel) => Math.abs(value - colour[channel]) <= TOLERANCE), `${what}: patch ${index} is ${rounded}, shown was ${colour}`);
    assert.ok(deviation <= 4 * TOLERANCE, `${what}: patch ${index} is not even, a pixel is off by ${Math.round(deviation)}`);
  });
}

/** The greatest difference of a patch's mean colour from what was shown, over patches and channels. */
export function colourError(picture) {
  return Math.max(...COLOURS.flatMap((colour, index) => patch(picture, index).mean.map((value, channel) => Math.abs(value - colour[channel]))));
}

/** Where the moving block stands: centre of the white in the lowest rows, as a part of the width. */
export function blockPosition(picture) {
  const y = Math.floor(picture.height * (1 - BLOCK / 2 / HEIGHT));
  let sum = 0;
  let count = 0;
  for (let x = 0; x < picture.width; x += 1) {
    if (picture.data[(y * picture.width + x) * 4 + 1] > 128) {
      sum += x;
      count += 1;
    }
  }
  return count ? sum / count / picture.width : null;
}

/** The colour of a picture that is one colour all over, its upper part left out; demands that it is. */
export function evenColour(picture, leaveOut) {
  const from = Math.ceil(picture.height * leaveOut);
  const least = [255, 255, 255];
  const most = [0, 0, 0];
  for (let at = from * picture.width * 4; at < picture.data.length; at += 4) {
    for (let channel = 0; channel < 3; channel += 1) {
      least[channel] = Math.min(least[channel], picture.data[at + channel]);
      most[channel] = Math.max(most[channel], picture.data[at + channel]);
    }
  }
  most.forEach((value, channel) => assert.ok(value - least[channel] <= 8, `not one colour: from ${least} to ${most}`));
  return least.map((value, channel) => Math.round((value + most[channel]) / 2));
}
