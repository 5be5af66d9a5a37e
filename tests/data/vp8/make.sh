#!/bin/bash
# Makes the VP8 samples of this folder and the checksums of the pictures that they must give, with ffmpeg: its libvpx
# encodes, its own VP8 decoder (which is not libvpx) decodes.
# Each picture carries its number at the top left as those of ../h264 do, in blocks of 8x8 pixels.
set -eu
cd "$(dirname "$0")"
run="ffmpeg -hide_banner -loglevel error -nostdin -y"
number='drawbox=x=0:y=0:w=144:h=8:color=black:t=fill,drawbox=x=0:y=0:w=8:h=8:color=white:t=fill'
for bit in $(seq 0 15); do
  number+=",drawbox=x=$((16 + 8 * bit)):y=0:w=8:h=8:color=white:t=fill:enable='mod(floor(n/$((1 << bit)))\\,2)'"
done
# pictures SIZE: 40 of them, moving colours with some noise
pictures() { echo -f lavfi -i "gradients=size=$1:rate=30:duration=3:seed=7:speed=0.05:n=4" -frames:v 40; }
filter="format=rgb24,noise=alls=4:allf=t:all_seed=7,$number,format=yuv420p"
check() { $run -c:v vp8 -i "$1.ivf" -f framecrc -pix_fmt yuv420p - | grep -v '^#' | sed 's/.*0x//' > "$1.adler32"; }
# make NAME SIZE CODEC-OPTIONS...
make() {
  local name=$1 size=$2; shift 2
  $run $(pictures "$size") -vf "$filter" -c:v libvpx -threads 1 -flags +bitexact -fflags +bitexact "$@" -f ivf "$name.ivf"
  check "$name"
}
# As browsers send: one long group, quick modes.
make realtime 426x240 -deadline realtime -cpu-used 4 -b:v 300k -g 999
# Four partitions of coefficients, nothing carried over in the entropy coder, a keyframe every 16.
make partitions 320x180 -deadline realtime -b:v 250k -slices 4 -error-resilient 1 -g 16 -keyint_min 16
# Hidden alternate reference frames, golden frames, an odd size.
two_pass() {
  local name=$1 size=$2; shift 2
  for pass in 1 2; do
    $run $(pictures "$size") -vf "$filter" -c:v libvpx -threads 1 -flags +bitexact -fflags +bitexact "$@" -pass $pass -f ivf "$name.ivf"
  done
  rm -f ffmpeg2pass-0.log
  check "$name"
}
two_pass altref 175x143 -deadline good -cpu-used 0 -b:v 150k -auto-alt-ref 1 -lag-in-frames 16 -arnr-maxframes 7 -arnr-strength 5 -g 24
# The other bit stream versions: bilinear and whole-pixel motion, the simple loop filter.
for version in 1 2 3; do
  make "version$version" 162x98 -deadline realtime -b:v 120k -profile:v $version -g 20
done
