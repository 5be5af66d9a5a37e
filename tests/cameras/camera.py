#!/usr/bin/python3
"""An RTSP camera for tests: GStreamer's own server with one stream at /cam.

    camera.py FILE [--port N] [--user U --password P [--basic]] [--udp-only | --tcp-only] [--sound]

FILE is an MP4 with H.264 and, perhaps, AAC. Each client gets it from its beginning, at its own pace. The first line printed is
the stream's address. The camera ends when its standard input does, so that it never outlives its test. The system's Python has
the bindings (Debian: gir1.2-gst-rtsp-server-1.0, python3-gi).
"""
import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("file")
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--user")
parser.add_argument("--password", default="")
parser.add_argument("--basic", action="store_true")
parser.add_argument("--udp-only", action="store_true")
parser.add_argument("--tcp-only", action="store_true")
parser.add_argument("--sound", action="store_true")
options = parser.parse_args()

Gst.init(None)
# Parameter sets also come before each IDR picture, as cameras send them.
pipeline = (
    f"filesrc location={options.file} ! qtdemux name=d d.video_0 ! queue ! h264parse"
    " ! rtph264pay config-interval=-1 name=pay0 pt=96"
)
if options.sound:
    pipeline += " d.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97"
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( {pipeline} )")
if options.udp_only:
    factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
if options.tcp_only:
    factory.set_protocols(GstRtsp.RTSPLowerTrans.TCP)

server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(str(options.port))
if options.user:
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if options.basic:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options.user, options.password), token)
    else:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(options.user, options.password, token)
    server.set_auth(auth)
    rights = GstRtspServer.RTSPPermissions()
    rights.add_permission_for_role("viewer", "media.factory.access", True)
    rights.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(rights)
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print(f"rtsp://127.0.0.1:{server.get_bound_port()}/cam", flush=True)

loop = GLib.MainLoop()
GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN | GLib.IOCondition.HUP, lambda *_: loop.quit())
loop.run()
