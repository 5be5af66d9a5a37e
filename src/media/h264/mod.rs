//! ITU-T H.264: NAL units, their framing, parameter sets and access units.
