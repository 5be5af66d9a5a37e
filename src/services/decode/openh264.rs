//! H.264 through OpenH264: the one door to the decoder of crate `openh264`.

use bytes::Bytes;
use openh264::OpenH264API;
use openh264::decoder::{DecodeOptions, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource as _;

use super::{DecodeError, pack};
use crate::media::h264::framing::{START_CODE, avcc_to_annex_b};
use crate::media::h264::undelayed::undelayed;
use crate::media::picture::YuvPicture;
use crate::media::track::VideoParams;
use crate::media::unit::AccessUnit;

/// OpenH264 at work on one stream.
pub(super) struct OpenH264 {
    decoder: Decoder,
    /// The sequence parameter sets of the keyframe, as they came.
    sps: Vec<Bytes>,
    /// The unit in the form that the decoder reads (H.264 annex B); kept for its room.
    annex_b: Vec<u8>,
}

impl OpenH264 {
    /// A decoder that has been told the parameter sets of an IDR.
    ///
    /// # Errors
    /// When there are none, when they ask for something that OpenH264 cannot do, and when a coded picture has more than
    /// `pixels_max` pixels.
    pub(super) fn start(sps: &[Bytes], pps: &[Bytes], pixels_max: u64) -> Result<Self, DecodeError> {
        if sps.is_empty() || pps.is_empty() {
            return Err(DecodeError::Parameters);
        }
        let mut annex_b = Vec::new();
        for nal in sps {
            let sps = undelayed(nal)?;
            let pixels = sps.coded_pixels;
            if pixels > pixels_max {
                return Err(DecodeError::TooLarge { pixels, pixels_max });
            }
            append_all(&mut annex_b, [&sps.nal]);
        }
        append_all(&mut annex_b, pps);
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let mut decoder =
            Decoder::with_api_config(OpenH264API::from_source(), config).map_err(|_| DecodeError::Start)?;
        decoder.decode(&annex_b).map_err(|_| DecodeError::Parameters)?;
        Ok(Self { decoder, sps: sps.to_vec(), annex_b })
    }
}

impl super::Decoder for OpenH264 {
    fn adopt(&mut self, params: &VideoParams) -> Result<(), DecodeError> {
        // Picture parameter sets may come and change at any unit (H.264 7.4.1.2.1); all else only at an IDR.
        let (sps, pps) = params.codec.h264_sets().ok_or(DecodeError::Gap)?;
        if sps != self.sps {
            return Err(DecodeError::Gap);
        }
        self.annex_b.clear();
        append_all(&mut self.annex_b, pps);
        self.decoder.decode(&self.annex_b).map(drop).map_err(|_| DecodeError::Parameters)
    }

    fn decode(&mut self, unit: &AccessUnit, picture: Option<&mut YuvPicture>) -> Result<(), DecodeError> {
        self.annex_b.clear();
        self.annex_b.extend_from_slice(&unit.data);
        avcc_to_annex_b(&mut self.annex_b).map_err(|_| DecodeError::Framing)?;
        let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        let decoded = self
            .decoder
            .decode_with_options(&self.annex_b, options)
            .map_err(|error| DecodeError::Damaged { seq: unit.seq, code: error.native_code() })?;
        let decoded = decoded.ok_or(DecodeError::NoPicture { seq: unit.seq })?;
        let (width, height) = decoded.dimensions();
        if (width, height) != (unit.params.width as usize, unit.params.height as usize) {
            return Err(DecodeError::Size { width, height });
        }
        let Some(picture) = picture else { return Ok(()) };
        let (y_stride, u_stride, v_stride) = decoded.strides();
        let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
        pack(decoded.y(), y_stride, width, height, &mut picture.y);
        pack(decoded.u(), u_stride, chroma_width, chroma_height, &mut picture.u);
        pack(decoded.v(), v_stride, chroma_width, chroma_height, &mut picture.v);
        Ok(())
    }
}

/// Appends NAL units as a byte stream.
fn append_all(annex_b: &mut Vec<u8>, nals: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    for nal in nals {
        annex_b.extend_from_slice(&START_CODE);
        annex_b.extend_from_slice(nal.as_ref());
    }
}
