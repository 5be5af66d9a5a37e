#!/bin/sh
# Makes the samples of sound in this folder with ffmpeg: a tone of 440 Hz, one second.
set -eu
cd "$(dirname "$0")"
tone="ffmpeg -hide_banner -loglevel error -nostdin -y -f lavfi -i sine=frequency=440:duration=1"
$tone -ar 44100 -ac 2 -c:a aac -b:a 64k -f adts tone_44100_stereo.aac
$tone -ar 48000 -ac 1 -c:a aac -b:a 48k -f adts tone_48000_mono.aac
$tone -ar 8000 -ac 1 -c:a pcm_mulaw -f mulaw tone_8000.ulaw
$tone -ar 8000 -ac 1 -c:a pcm_alaw -f alaw tone_8000.alaw
