"""From a transmission to what one receiver records of it: samples, truth and catalog row. Pure: the spec decides all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.corpus.simulate.airwave import Airwave
from featurestore.corpus.simulate.breakage import broken_object, broken_record, npy_bytes
from featurestore.corpus.simulate.clocks import NS, Clock, air_span_s, clock_of, delay_s, moment_ns, second_path_s
from featurestore.corpus.simulate.fading import Fading, apply, rician
from featurestore.corpus.simulate.radiomap import mean_level_dbm
from featurestore.corpus.simulate.randomness import Stream, stream
from featurestore.corpus.simulate.receiver import ReceiverModel, background, digitize, receiver_model
from featurestore.corpus.simulate.session import Transmission, transmission
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS, Receiver
from featurestore.corpus.simulate.truth import CaptureTruth
from featurestore.corpus.simulate.waveform import CHANNEL_BANDWIDTH_HZ, fm_baseband
from featurestore.source.catalog_writing import CaptureRecord

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
    def air(self) -> Airwave:
        """What is on the air where receivers have clocks: a function of time."""
        return Airwave(stream(self.spec.seed, Stream.VOICE, self.sent.index), air_span_s(self.spec), self.sent.ctcss_hz)

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
        clock = clock_of(spec, sent, receiver)
        ppm = model.clock_ppm if clock is None else clock.ppm  # one oscillator tunes and samples
        carrier_hz = sent.offset_hz - ppm * sent.frequency_mhz  # ppm of MHz are Hz
        npy, clipped = None, 0.0
        if reason != "missing_object":
            waves = [(self.baseband, fading)] if clock is None else self._waves(receiver, clock, fading)
            samples, clipped = self._samples(model, rng, waves, carrier_hz, level)
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
            **self._true_times(receiver, clock),
        )
        return SimulatedCapture(truth, broken_record(self._record(receiver, measured_db, clock), reason, count), npy)

    def _waves(self, receiver: Receiver, clock: Clock, fading: Fading) -> list[tuple[npt.NDArray[np.complex64], Fading]]:
        """What arrives, as the receiver samples it: each path's baseband (n_samples,) and gain."""
        sent_s = clock.times_s(self.spec.n_samples, self.spec.sample_rate_hz) - delay_s(self.sent, receiver)
        direct = self.air.at(sent_s)
        later_s = second_path_s(self.spec, self.sent, receiver)
        if not later_s:
            return [(direct, fading)]
        return list(zip((direct, self.air.at(sent_s - later_s)), fading.paths(), strict=True))

    def _true_times(self, receiver: Receiver, clock: Clock | None) -> dict[str, Any]:
        """What `truth.csv` has of times: nothing without a clock."""
        if clock is None:
            return {}
        return {
            "delay_s": delay_s(self.sent, receiver),
            "second_path_s": second_path_s(self.spec, self.sent, receiver),
            "start_time_ns": moment_ns(self.sent) + round(clock.start_s * NS),
            "time_error_s": clock.stated_s - clock.start_s,
            "sample_clock_ppm": clock.ppm,
            "drift_ppm_per_s": clock.drift_ppm_per_s,
        }

    def _samples(
        self,
        model: ReceiverModel,
        rng: np.random.Generator,
        waves: list[tuple[npt.NDArray[np.complex64], Fading]],
        carrier_hz: float,
        level_dbm: float,
    ) -> tuple[npt.NDArray[np.complex64], float]:
        """The recording (n_samples,), and the share of it that was clipped."""
        rate_hz = self.spec.sample_rate_hz
        amplitude = 10 ** ((level_dbm - model.full_scale_dbm) / 20) * float(model.response(carrier_hz, rate_hz))
        samples = background(model, rng, self.spec.n_samples, rate_hz, self.sent.frequency_mhz)
        for baseband, fading in waves:
            samples += apply(baseband, fading, carrier_hz, rate_hz, amplitude)
        return samples, digitize(samples)

    def _record(self, receiver: Receiver, snr_db: float, clock: Clock | None) -> CaptureRecord:
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
            start_time_ns=None if clock is None else clock.stated_ns(sent),
            time_sigma_s=None if clock is None else clock.sigma_s,
        )
