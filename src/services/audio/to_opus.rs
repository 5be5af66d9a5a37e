//! Sound of other codecs to Opus: the one door to the audio decoders, the resampler and the Opus encoder.
//!
//! ```text
//! AAC, G.711 ─decode─► PCM ─resample─► 48 kHz ─cut─► 20 ms ─encode─► Opus
//! ```
//!
//! No thread and no clock: [`ToOpus`] is given frames and gives frames. Who listens belongs in [`super`].

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use ropus::{Application, Bitrate, Channels, Encoder};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};
use symphonia::core::audio::layouts::{CHANNEL_LAYOUT_MONO, CHANNEL_LAYOUT_STEREO};
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_PCM_ALAW, CODEC_ID_PCM_MULAW};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::packet::PacketRef;
use symphonia::default::codecs::{AacDecoder, PcmDecoder};

use crate::media::time::Timestamp;
use crate::media::track::{AudioCodec, AudioParams};
use crate::media::unit::AudioFrame;

/// Samples a second of everything that Opus in RTP says (RFC 7587 section 4.1).
pub const OPUS_RATE: NonZeroU32 = NonZeroU32::new(48_000).unwrap();
/// Samples of each channel in one packet: 20 ms, what browsers send and expect.
const PACKET_SAMPLES: usize = 960;
/// Bits a second for each channel: transparent for most ears.
const BITRATE_PER_CHANNEL: u32 = 64_000;
/// A packet of 20 ms is never larger (RFC 6716 section 3.4).
const PACKET_BYTES_MAX: usize = 1275;
/// Time stamps that differ by more than this from the sound so far are a jump: 40 ms.
const JUMP_TICKS: i64 = 1920;
/// Sample rates that are resampled: from the least to the greatest of AAC (ISO/IEC 14496-3 table 1.18), G.711's among them.
/// Descriptions can say any number, and room for a resampler grows with it.
const RATES: RangeInclusive<u32> = 7350..=96_000;
/// The complexity at which an encoder takes half the time of the highest, for a difference that few hear.
const COMPLEXITY: u8 = 5;

/// Why sound cannot be made Opus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// The codec, or this form of it (HE-AAC, more than two channels), is not decoded.
    #[error("{0} of this form is not decoded")]
    Unsupported(&'static str),
    /// A library did not start.
    #[error("{0} did not start")]
    Start(&'static str),
}

/// One track's way to Opus.
pub struct ToOpus {
    params: Arc<AudioParams>,
    decoder: Box<dyn AudioDecoder>,
    resampler: Option<Fft<f32>>,
    encoder: Encoder,
    made: Arc<AudioParams>,
    /// Interleaved samples that the resampler has not had yet.
    decoded: Vec<f32>,
    /// Interleaved samples at 48 kHz that are not encoded yet.
    ready: Vec<f32>,
    /// Time of the first sample of `ready`, in ticks of 48 kHz.
    ready_at: Option<i64>,
}

impl std::fmt::Debug for ToOpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToOpus").field("params", &self.params).finish_non_exhaustive()
    }
}

impl ToOpus {
    /// A way for frames of these parameters.
    ///
    /// # Errors
    /// When they cannot be decoded.
    pub fn new(params: &Arc<AudioParams>) -> Result<Self, AudioError> {
        let name = params.codec.name();
        let channels = match params.channels {
            1 => Channels::Mono,
            2 => Channels::Stereo,
            _ => return Err(AudioError::Unsupported(name)),
        };
        let rate = params.sample_rate.get();
        if !RATES.contains(&rate) {
            return Err(AudioError::Unsupported(name));
        }
        let resampler = if params.sample_rate == OPUS_RATE {
            None
        } else {
            // A hundredth of a second at a time: what waits for a full chunk is never heard late.
            let chunk = (rate / 100).max(1) as usize;
            let (rate, wanted) = (rate as usize, OPUS_RATE.get() as usize);
            let fft = Fft::new(rate, wanted, chunk, usize::from(params.channels), FixedSync::Input);
            Some(fft.map_err(|_| AudioError::Start("the resampler"))?)
        };
        let encoder = encoder(channels, params.channels).ok_or(AudioError::Start("the Opus encoder"))?;
        let codec = AudioCodec::Opus;
        let made = Arc::new(AudioParams { codec, sample_rate: OPUS_RATE, channels: params.channels });
        let decoder = decoder(params).ok_or(AudioError::Unsupported(name))?;
        Ok(Self {
            params: params.clone(),
            decoder,
            resampler,
            encoder,
            made,
            decoded: Vec::new(),
            ready: Vec::new(),
            ready_at: None,
        })
    }

    /// Whether frames of these parameters may be given to it.
    #[must_use]
    pub fn takes(&self, params: &Arc<AudioParams>) -> bool {
        Arc::ptr_eq(params, &self.params) || *params == self.params
    }

    /// Takes a frame; returns what became whole by it, in time order. A frame that is damaged is left out, and the time stamps
    /// of what follows say so.
    pub fn take(&mut self, frame: &AudioFrame) -> Vec<AudioFrame> {
        if frame.data.len() > FRAME_BYTES_MAX {
            return Vec::new();
        }
        let packet = PacketRef::new(0, 0.into(), Default::default(), &frame.data);
        let Ok(pcm) = self.decoder.decode_ref(&packet) else { return Vec::new() };
        let mut samples: Vec<f32> = Vec::new();
        pcm.copy_to_vec_interleaved(&mut samples);
        let channels = usize::from(self.params.channels);
        let Some(mut samples) = remix(samples, pcm.spec().channels().count(), channels) else {
            return Vec::new();
        };
        self.follow(frame.pts.rescale(OPUS_RATE).ticks, channels);
        self.decoded.append(&mut samples);
        self.resample(channels);
        self.encode(frame, channels)
    }

    /// Compares the time of the next samples with what came before them, and begins anew after a jump.
    fn follow(&mut self, pts: i64, channels: usize) {
        let rate = i64::from(self.params.sample_rate.get());
        let waiting = (self.decoded.len() / channels) as i64 * i64::from(OPUS_RATE.get()) / rate;
        let delay = self.resampler.as_ref().map_or(0, |resampler| resampler.output_delay()) as i64;
        let expected = self.ready_at.map(|at| at + (self.ready.len() / channels) as i64 + waiting + delay);
        if expected.is_some_and(|expected| (pts - expected).abs() <= JUMP_TICKS) {
            return;
        }
        self.decoded.clear();
        self.ready.clear();
        if let Some(resampler) = &mut self.resampler {
            resampler.reset();
        }
        self.ready_at = Some(pts.saturating_sub(delay));
    }

    fn resample(&mut self, channels: usize) {
        let Some(resampler) = &mut self.resampler else {
            self.ready.append(&mut self.decoded);
            return;
        };
        let mut used = 0;
        loop {
            let frames = resampler.input_frames_next();
            let Some(chunk) = self.decoded.get(used..used + frames * channels) else { break };
            used += frames * channels;
            let from = self.ready.len();
            let made = resampler.output_frames_next();
            self.ready.resize(from + made * channels, 0.0);
            let Ok(input) = InterleavedSlice::new(chunk, channels, frames) else { break };
            let Ok(mut output) = InterleavedSlice::new_mut(&mut self.ready[from..], channels, made) else {
                break;
            };
            // The sizes are those that the resampler asked for: it cannot fail.
            let written =
                resampler.process_into_buffer(&input, &mut output, None).map_or(0, |(_, written)| written);
            self.ready.truncate(from + written * channels);
        }
        self.decoded.drain(..used);
    }

    fn encode(&mut self, frame: &AudioFrame, channels: usize) -> Vec<AudioFrame> {
        let mut made = Vec::new();
        let size = PACKET_SAMPLES * channels;
        let whole = self.ready.len() / size * size;
        for samples in self.ready[..whole].chunks_exact(size) {
            let Some(at) = self.ready_at else { break };
            self.ready_at = Some(at + PACKET_SAMPLES as i64);
            let mut packet = vec![0; PACKET_BYTES_MAX];
            let Ok(size) = self.encoder.encode_float(samples, &mut packet) else { continue };
            packet.truncate(size);
            packet.shrink_to_fit();
            made.push(AudioFrame {
                arrived: frame.arrived,
                pts: Timestamp { ticks: at, timescale: OPUS_RATE },
                params: self.made.clone(),
                data: Bytes::from(packet),
            });
        }
        self.ready.drain(..whole);
        made
    }
}

/// Interleaved samples of so many channels as so many others: sources can be wrong about their own. `None` where there is no way.
fn remix(samples: Vec<f32>, from: usize, to: usize) -> Option<Vec<f32>> {
    match (from, to) {
        _ if from == to => Some(samples),
        (1, 2) => Some(samples.into_iter().flat_map(|sample| [sample, sample]).collect()),
        (2, 1) => Some(samples.chunks_exact(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()),
        _ => None,
    }
}

fn encoder(channels: Channels, number: u8) -> Option<Encoder> {
    let bitrate = Bitrate::try_bits(BITRATE_PER_CHANNEL * u32::from(number)).ok()?;
    let encoder = Encoder::builder(OPUS_RATE.get(), channels, Application::Audio);
    encoder.bitrate(bitrate).complexity(COMPLEXITY).build().ok()
}

fn decoder(params: &AudioParams) -> Option<Box<dyn AudioDecoder>> {
    let mut wanted = AudioCodecParameters::new();
    let layout = if params.channels == 1 { CHANNEL_LAYOUT_MONO } else { CHANNEL_LAYOUT_STEREO };
    wanted.with_sample_rate(params.sample_rate.get()).with_channels(layout);
    let options = AudioDecoderOptions::default();
    let g711 = |wanted: &mut AudioCodecParameters, id| {
        wanted.for_codec(id).with_max_frames_per_packet(G711_SAMPLES_MAX);
        Some(Box::new(PcmDecoder::try_new(wanted, &options).ok()?) as Box<dyn AudioDecoder>)
    };
    match &params.codec {
        AudioCodec::Opus => None,
        AudioCodec::Pcma => g711(&mut wanted, CODEC_ID_PCM_ALAW),
        AudioCodec::Pcmu => g711(&mut wanted, CODEC_ID_PCM_MULAW),
        AudioCodec::Aac { config } => {
            wanted.for_codec(CODEC_ID_AAC).extra_data = Some(config.to_vec().into_boxed_slice());
            Some(Box::new(AacDecoder::try_new(&wanted, &options).ok()?))
        }
    }
}

/// Samples of each channel in the largest G.711 frame that is decoded: one second.
const G711_SAMPLES_MAX: u64 = 8000;
/// Largest frame that is decoded: that second in stereo, twice the largest of AAC.
const FRAME_BYTES_MAX: usize = 2 * G711_SAMPLES_MAX as usize;
