//! Sample entries: what a track's decoder must be told, made of a stream's parameters and read back.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use shiguredo_mp4::bitstream::opus::{ChannelCount, OpusSampleEntryConfig, build_opus_box};
use shiguredo_mp4::boxes::{
    AudioSampleEntryFields, Avc1Box, AvccBox, EsdsBox, Mp4aBox, SampleEntry, UnknownBox,
    VisualSampleEntryFields,
};
use shiguredo_mp4::descriptors::{
    DecoderConfigDescriptor, DecoderSpecificInfo, EsDescriptor, SlConfigDescriptor,
};
use shiguredo_mp4::{BoxSize, BoxType, FixedPointNumber, Uint};

use super::{Entry, Mp4Error, format_error};
use crate::media::aac;
use crate::media::h264::sps::Sps;
use crate::media::track::{AudioCodec, AudioParams, VideoParams};

/// Samples at 48 kHz by which the Opus encoders of browsers look ahead: what their decoders give first is none of the sound
/// (RFC 7845 section 4.2).
pub const OPUS_PRE_SKIP: u16 = 312;

/// An entry read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryCodec {
    /// H.264 (`avc1`).
    H264 {
        /// Sequence parameter sets.
        sps: Vec<Bytes>,
        /// Picture parameter sets.
        pps: Vec<Bytes>,
        /// Bytes of the length before each NAL unit: 1, 2 or 4.
        length_bytes: usize,
    },
    /// AAC or Opus.
    Audio(AudioParams),
    /// What is not played; the four letters of the entry.
    Other(String),
}

impl Entry {
    /// The entry for pictures of these parameters; `None` for a codec that has its place in another container.
    ///
    /// # Errors
    /// When the parameter sets cannot be read or are too large.
    pub fn of_video(params: &VideoParams) -> Result<Option<Self>, Mp4Error> {
        let Some((sps_list, pps_list)) = params.codec.h264_sets() else { return Ok(None) };
        let first = sps_list.first().ok_or_else(|| format_error("a stream without parameter sets"))?;
        let sps = Sps::parse(first, u64::MAX).map_err(|error| Mp4Error::Format(error.to_string()))?;
        let side = |pixels: u32| u16::try_from(pixels).map_err(|_| Mp4Error::TooLarge("picture"));
        let depth = sps.bit_depth.saturating_sub(8);
        let (across, down) = params.sample_aspect_ratio;
        let mut unknown_boxes = Vec::new();
        if across != down && across > 0 && down > 0 {
            let payload = [u32::from(across).to_be_bytes(), u32::from(down).to_be_bytes()].concat();
            let box_type = BoxType::Normal(*b"pasp");
            let box_size = BoxSize::with_payload_size(box_type, payload.len() as u64);
            unknown_boxes.push(UnknownBox { box_type, box_size, payload });
        }
        let copy = |sets: &[Bytes]| sets.iter().map(|set| set.to_vec()).collect::<Vec<_>>();
        Ok(Some(Self(SampleEntry::Avc1(Avc1Box {
            visual: VisualSampleEntryFields {
                data_reference_index: VisualSampleEntryFields::DEFAULT_DATA_REFERENCE_INDEX,
                width: side(params.width)?,
                height: side(params.height)?,
                horizresolution: VisualSampleEntryFields::DEFAULT_HORIZRESOLUTION,
                vertresolution: VisualSampleEntryFields::DEFAULT_VERTRESOLUTION,
                frame_count: VisualSampleEntryFields::DEFAULT_FRAME_COUNT,
                compressorname: [0; 32],
                depth: 0x18,
            },
            avcc_box: AvccBox {
                avc_profile_indication: sps.profile_idc,
                profile_compatibility: first.get(2).copied().unwrap_or(0),
                avc_level_indication: sps.level_idc,
                length_size_minus_one: Uint::new(3),
                sps_list: copy(sps_list),
                pps_list: copy(pps_list),
                chroma_format: Some(Uint::new(sps.chroma_format_idc)),
                bit_depth_luma_minus8: Some(Uint::new(depth)),
                bit_depth_chroma_minus8: Some(Uint::new(depth)),
                sps_ext_list: Vec::new(),
            },
            unknown_boxes,
        }))))
    }

    /// The entry for sound; `None` for a codec that browsers do not play from MP4.
    #[must_use]
    pub fn of_audio(params: &AudioParams) -> Option<Self> {
        match &params.codec {
            AudioCodec::Opus => {
                let channel_count =
                    if params.channels == 1 { ChannelCount::Mono } else { ChannelCount::Stereo };
                Some(Self(SampleEntry::Opus(build_opus_box(&OpusSampleEntryConfig {
                    channel_count,
                    pre_skip: OPUS_PRE_SKIP,
                    input_sample_rate: 48_000,
                    output_gain: 0,
                }))))
            }
            AudioCodec::Aac { config } => Some(Self(SampleEntry::Mp4a(Mp4aBox {
                audio: AudioSampleEntryFields {
                    data_reference_index: NonZeroU16::MIN,
                    channelcount: u16::from(params.channels),
                    samplesize: AudioSampleEntryFields::DEFAULT_SAMPLESIZE,
                    // Rates that do not fit stand in the configuration alone.
                    samplerate: FixedPointNumber::new(
                        u16::try_from(params.sample_rate.get()).unwrap_or(0),
                        0,
                    ),
                },
                esds_box: EsdsBox {
                    es: EsDescriptor {
                        es_id: EsDescriptor::MIN_ES_ID,
                        stream_priority: EsDescriptor::LOWEST_STREAM_PRIORITY,
                        depends_on_es_id: None,
                        url_string: None,
                        ocr_es_id: None,
                        dec_config_descr: DecoderConfigDescriptor {
                            object_type_indication:
                                DecoderConfigDescriptor::OBJECT_TYPE_INDICATION_AUDIO_ISO_IEC_14496_3,
                            stream_type: DecoderConfigDescriptor::STREAM_TYPE_AUDIO,
                            up_stream: DecoderConfigDescriptor::UP_STREAM_FALSE,
                            buffer_size_db: Uint::new(0),
                            max_bitrate: 0,
                            avg_bitrate: 0,
                            dec_specific_info: Some(DecoderSpecificInfo { payload: config.to_vec() }),
                        },
                        sl_config_descr: SlConfigDescriptor,
                    },
                },
                unknown_boxes: Vec::new(),
            }))),
            AudioCodec::Pcma | AudioCodec::Pcmu => None,
        }
    }

    /// What the entry says.
    #[must_use]
    pub fn codec(&self) -> EntryCodec {
        let copy = |sets: &[Vec<u8>]| sets.iter().map(|set| Bytes::copy_from_slice(set)).collect();
        match &self.0 {
            SampleEntry::Avc1(avc1) => EntryCodec::H264 {
                sps: copy(&avc1.avcc_box.sps_list),
                pps: copy(&avc1.avcc_box.pps_list),
                length_bytes: usize::from(avc1.avcc_box.length_size_minus_one.get()) + 1,
            },
            SampleEntry::Opus(opus) => EntryCodec::Audio(AudioParams {
                codec: AudioCodec::Opus,
                sample_rate: const { NonZeroU32::new(48_000).unwrap() },
                channels: opus.dops_box.output_channel_count,
            }),
            SampleEntry::Mp4a(mp4a) => {
                let config = &mp4a.esds_box.es.dec_config_descr;
                let is_aac = matches!(config.object_type_indication, 0x40 | 0x66..=0x68);
                let info = config.dec_specific_info.as_ref().filter(|info| !info.payload.is_empty());
                // The entry's own rate and channels are whatever its writer found customary: the configuration decides.
                match info.filter(|_| is_aac).and_then(|info| aac::params(&info.payload)) {
                    Some(params) => EntryCodec::Audio(params),
                    None => EntryCodec::Other("mp4a".to_owned()),
                }
            }
            other => {
                let kind = match other {
                    SampleEntry::Unknown(unknown) => unknown.box_type,
                    known => shiguredo_mp4::BaseBox::box_type(known),
                };
                EntryCodec::Other(String::from_utf8_lossy(kind.as_bytes()).into_owned())
            }
        }
    }
}
