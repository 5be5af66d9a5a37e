#!/bin/bash
# Makes the H.264 samples of this folder and the pictures that they must give, with ffmpeg and its x264.
# Each picture of a sample carries its number at the top left: a white and a black block, then 16 blocks of 16x16
# pixels, lowest bit first, white for 1.
set -eu
cd "$(dirname "$0")"
run="ffmpeg -hide_banner -loglevel error -nostdin -y"
number='drawbox=x=0:y=0:w=288:h=16:color=black:t=fill,drawbox=x=0:y=0:w=16:h=16:color=white:t=fill'
for bit in $(seq 0 15); do
  number+=",drawbox=x=$((32 + 16 * bit)):y=0:w=16:h=16:color=white:t=fill:enable='mod(floor(n/$((1 << bit)))\\,2)'"
done
# make NAME SIZE MATRIX RANGE CODEC-OPTIONS...: 36 pictures of moving colours, a keyframe every 16
make() {
  local name=$1 size=$2 matrix=$3 range=$4; shift 4
  local tag=$matrix; [ "$matrix" = bt601 ] && tag=smpte170m
  $run -f lavfi -i "gradients=size=$size:rate=30:duration=1.2:seed=7:speed=0.05:n=4" -frames:v 36 \
    -vf "format=rgb24,$number,scale=out_color_matrix=$matrix:out_range=$range:flags=accurate_rnd+full_chroma_int,format=yuv420p" \
    -c:v libx264 -threads 1 -crf 24 -g 16 -keyint_min 16 -sc_threshold 0 \
    -colorspace "$tag" -color_primaries "$tag" -color_trc "$tag" -color_range "$range" "$@" -f h264 "$name.h264"
  # The colour conversion is ffmpeg's own, told to be exact.
  $run -i "$name.h264" -vf "select=eq(n\,20),scale=in_color_matrix=$matrix:in_range=$range:flags=accurate_rnd+full_chroma_int+neighbor,format=rgb24" \
    -frames:v 1 -map_metadata -1 "$name.20.png"
}
make baseline_bt601   426x240 bt601 tv -profile:v baseline
make main_bt709       426x240 bt709 tv -profile:v main -bf 0
make high_full_bt709  426x240 bt709 pc -profile:v high -bf 0
make high_b_bt709     426x240 bt709 tv -profile:v high -bf 3 -b_strategy 0 -x264-params b-pyramid=normal
make main_b_slices4   638x358 bt601 tv -profile:v main -bf 2 -slices 4
# For tests/dependencies.rs: B slices with temporal direct prediction, and keyframes that are no IDR pictures.
$run -f lavfi -i mandelbrot=size=320x180:rate=30:start_scale=0.02:end_scale=0.002:end_pts=60:maxiter=200 \
  -frames:v 40 -vf noise=alls=6:allf=t -c:v libx264 -threads 1 -preset slow -b:v 150k \
  -x264-params direct=temporal:b-pyramid=strict:bframes=5:b-adapt=0:open-gop=1:keyint=18:min-keyint=18:scenecut=0 \
  -pix_fmt yuv420p -f h264 slow_b_open_gop.h264
