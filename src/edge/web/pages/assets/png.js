/**
 * Reads what a PNG says about itself: size and text entries. Pictures are decoded by the browser, this looks at headers only.
 */
(function (root) {
  "use strict";

  const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

  /**
   * @param {Uint8Array} bytes A PNG file.
   * @returns {{width: number, height: number, text: Object<string, string>}|null} Size in pixels and the `tEXt` entries by
   *   keyword (W3C PNG, 11.2.1 and 11.3.3.2); null if this is no PNG.
   */
  function readPng(bytes) {
    if (bytes.length < 33 || SIGNATURE.some((byte, index) => bytes[index] !== byte)) return null;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const result = { width: view.getUint32(16), height: view.getUint32(20), text: Object.create(null) };
    // A chunk is length, type, data and checksum: 12 bytes besides the data.
    for (let at = 8; at + 12 <= bytes.length;) {
      const length = view.getUint32(at);
      const data = at + 8;
      if (data + length + 4 > bytes.length) break;
      const type = latin1(bytes.subarray(at + 4, data));
      if (type === "tEXt") {
        const [keyword, ...value] = latin1(bytes.subarray(data, data + length)).split("\0");
        result.text[keyword] = value.join("\0");
      }
      at = data + length + 4;
    }
    return result;
  }

  /** `tEXt` is ISO 8859-1, whose codes are the first code points of Unicode. */
  function latin1(bytes) {
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  }

  root.readPng = readPng;
})(window);
