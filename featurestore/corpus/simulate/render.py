"""From a transmission to what one receiver records of it: samples, truth and catalog row. Pure: the spec decides all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from featurestore.corpus.simulate.breakage import broken_object, broken_record, npy_bytes
from featurestore.corpus.simulate.fading import Fading, apply, rician
from featurestore.corpus.simulate.radiomap import mean_level_dbm
from featurestore.corpus.simulate.randomness import Stream, stream
from featurestore.corpus.simulate.receiver import ReceiverModel, background, digitize, receiver_model
from featurestore.corpus.simulate.session import Transmission, transmission
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS, Receiver
from featurestore.corpus.simulate.truth import CaptureTruth
from featurestore.corpus.simulate.waveform import CHANNEL_BANDWIDTH_HZ, fm_baseband
from featurestore.source.catalog import CaptureRecord

SNR_ERROR_DB = 1.0
"""Standard deviation of the catalog's SNR around that of the capture: it is measured, not known."""


@dataclass(frozen=True)
class SimulatedCapture:
    """One capture: what is true of it, its catalog row, and its object (`None`: there shall be none)."""

    truth: CaptureTruth
    record: CaptureRecord
    npy: bytes | memoryview | None


class Session:
    """One session of a corpus; its captures are rendered one by one."""

    def __init__(self, spec: SimulationSpec, index: int) -> None:
        self.spec = spec
        self.sent: Transmission = transmission(spec, index)

    @cached_property
    def baseband(self) -> npt.NDArray[np.complex64]:
        """What is on the air: (n_samples,)."""
        rng = stream(self.spec.seed, Stream.VOICE, self.sent.index)
        return fm_baseband(rng, self.spec.n_samples, self.spec.sample_rate_hz, self.sent.ctcss_hz)

    def capture(self, receiver_index: int) -> SimulatedCapture | None:
        """What one receiver records; `None` when its SNR is below what the corpus keeps."""
        spec, sent, receiver = self.spec, self.sent, RECEIVERS[receiver_index]
        model = receiver_model(spec.seed, receiver)
        rng = stream(spec.seed, Stream.CAPTURE, sent.index, receiver.websdr_id)
        fading = rician(rng, spec.n_samples, spec.sample_rate_hz, sent.doppler_hz, sent.direct_doppler_hz(receiver))
        distance, shadow, level = mean_level_dbm(spec.seed, receiver, sent.place, sent.eirp_dbm, sent.frequency_mhz)
        snr_db = level - model.noise_dbm(CHANNEL_BANDWIDTH_HZ)
        measured_db = snr_db + fading.power_db + SNR_ERROR_DB * float(rng.standard_normal())
        reason, count = spec.broken(sent.index, receiver_index) or ("", 0)
        if spec.min_snr_db is not None and snr_db + fading.power_db < spec.min_snr_db and not reason:
            return None
        carrier_hz = sent.offset_hz - model.clock_ppm * sent.frequency_mhz  # ppm of MHz are Hz
        npy, clipped = None, 0.0
        if reason != "missing_object":
            samples, clipped = self._samples(model, rng, fading, carrier_hz, level)
            npy = npy_bytes(samples, spec.dtype) if not reason else broken_object(samples.astype(spec.dtype), reason, count)
        truth = CaptureTruth(
            session_id=sent.session_id,
            websdr_id=receiver.websdr_id,
            site=sent.site,
            latitude=sent.place[0],
            longitude=sent.place[1],
            eirp_dbm=sent.eirp_dbm,
            frequency_mhz=sent.frequency_mhz,
            ctcss_hz=sent.ctcss_hz,
            distance_m=distance,
            shadowing_db=shadow,
            level_dbm=level,
            level_dbfs=level - model.full_scale_dbm,
            snr_db=snr_db,
            fading_db=fading.power_db,
            doppler_hz=sent.doppler_hz,
            carrier_hz=carrier_hz,
            clipped_fraction=clipped,
            approved=spec.approved(sent.index),
            broken=reason,
        )
        return SimulatedCapture(truth, broken_record(self._record(receiver, measured_db), reason, count), npy)

    def _samples(
        self, model: ReceiverModel, rng: np.random.Generator, fading: Fading, carrier_hz: float, level_dbm: float
    ) -> tuple[npt.NDArray[np.complex64], float]:
        """The recording (n_samples,), and the share of it that was clipped."""
        rate_hz = self.spec.sample_rate_hz
        amplitude = 10 ** ((level_dbm - model.full_scale_dbm) / 20) * float(model.response(carrier_hz, rate_hz))
        samples = background(model, rng, self.spec.n_samples, rate_hz, self.sent.frequency_mhz)
        samples += apply(self.baseband, fading, carrier_hz, rate_hz, amplitude)
        return samples, digitize(samples)

    def _record(self, receiver: Receiver, snr_db: float) -> CaptureRecord:
        sent = self.sent
        return CaptureRecord(
            session_id=sent.session_id,
            websdr_id=receiver.websdr_id,
            latitude=sent.label[0],
            longitude=sent.label[1],
            sample_rate_hz=self.spec.sample_rate_hz,
            frequency_mhz=sent.frequency_mhz,
            snr_db=round(snr_db, 1),
            timestamp=sent.timestamp,
            approved=self.spec.approved(sent.index),
        )
