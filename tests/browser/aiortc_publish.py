"""Publishes the test camera's picture through the server's WebSocket protocol with aiortc.

A WebRTC implementation that shares no code with the browser's or with ours. Says PUBLISHING when the server does, publishes
until its standard input is closed, and ends with 0 when the server has confirmed the end.

    aiortc_publish.py ws://127.0.0.1:8080 NAME '{"width": 640, "height": 360, "patches": [[left, top, width, height, [y, u, v]], ...]}'
"""

import asyncio
import fractions
import json
import sys
import uuid

import av
import websockets
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpSender, RTCSessionDescription

FRAME_RATE = 30


class PatchesTrack(MediaStreamTrack):
    """Even patches on black, at 30 frames a second."""

    kind = "video"

    def __init__(self, picture):
        super().__init__()
        self.number = 0
        self.began = None
        width, height = picture["width"], picture["height"]
        planes = [bytearray([16]) * (width * height), bytearray([128]) * (width * height // 4), bytearray([128]) * (width * height // 4)]
        for left, top, patch_width, patch_height, yuv in picture["patches"]:
            for plane, value in enumerate(yuv):
                step = 2 if plane else 1
                stride = width // step
                for row in range(top // step, (top + patch_height) // step):
                    start = row * stride + left // step
                    planes[plane][start:start + patch_width // step] = bytes([value]) * (patch_width // step)
        self.size = (width, height)
        self.planes = [bytes(plane) for plane in planes]

    async def recv(self):
        loop = asyncio.get_running_loop()
        if self.began is None:
            self.began = loop.time()
        await asyncio.sleep(max(0, self.began + self.number / FRAME_RATE - loop.time()))
        frame = av.VideoFrame(*self.size, "yuv420p")
        for index, (plane, content) in enumerate(zip(frame.planes, self.planes)):
            stride = self.size[0] // 2 if index else self.size[0]
            rows = [content[at:at + stride].ljust(plane.line_size, b"\0") for at in range(0, len(content), stride)]
            plane.update(b"".join(rows))
        frame.pts = self.number * 90000 // FRAME_RATE
        frame.time_base = fractions.Fraction(1, 90000)
        self.number += 1
        return frame


async def publish(address, name, picture):
    media_session = str(uuid.uuid4())
    connection = RTCPeerConnection()
    transceiver = connection.addTransceiver(PatchesTrack(picture), direction="sendonly")
    transceiver.setCodecPreferences([codec for codec in RTCRtpSender.getCapabilities("video").codecs if codec.mimeType == "video/H264"])
    await connection.setLocalDescription(await connection.createOffer())

    async with websockets.connect(address, max_size=None) as socket:

        async def send(message, argument):
            await socket.send(json.dumps({"message": message, "data": [argument]}))

        async def end_with_input():
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            await send("unPublishStream", {"mediaSessionId": media_session, "name": name})

        await send("connection", {"appKey": "defaultApp", "mediaProviders": ["WebRTC"], "clientVersion": "2.0"})
        ending = None
        try:
            async for text in socket:
                frame = json.loads(text)
                message, data = frame["message"], frame["data"]
                if message == "ping":
                    await send("pong", None)
                elif message == "getUserData":
                    await send("publishStream", {
                        "mediaSessionId": media_session, "name": name, "published": True, "hasVideo": True, "hasAudio": False,
                        "status": "PENDING", "record": False, "mediaProvider": "WebRTC", "sdp": connection.localDescription.sdp,
                    })
                elif message == "setRemoteSDP":
                    await connection.setRemoteDescription(RTCSessionDescription(data[1], "answer"))
                elif message == "notifyStreamStatusEvent":
                    status = data[0]["status"]
                    print(status, data[0].get("info", ""), flush=True)
                    if status == "PUBLISHING" and ending is None:
                        ending = asyncio.ensure_future(end_with_input())
                    elif status == "UNPUBLISHED":
                        return 0
                    elif status == "FAILED":
                        return 1
        finally:
            await connection.close()
    print("the socket was closed", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(publish(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
