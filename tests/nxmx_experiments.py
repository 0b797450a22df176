"""Random dxtbx experiments for the tests of the NXmx writer and reader."""

from __future__ import annotations

import numpy as np
from dxtbx.model import (
    Beam,
    Crystal,
    Detector,
    Experiment,
    Goniometer,
    MosaicCrystalKabsch2010,
    MosaicCrystalSauter2014,
    MultiAxisGoniometer,
    ParallaxCorrectedPxMmStrategy,
    Scan,
)
from scipy.spatial.transform import Rotation
from scitbx.array_family import flex


def unit(rng) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def turn(rng, degrees: float = 180.0) -> np.ndarray:
    return Rotation.from_rotvec(np.radians(degrees) * rng.uniform() * unit(rng)).as_matrix()


def random_beam(rng, scan_points: int = 0) -> Beam:
    direction = unit(rng)
    beam = Beam(tuple(direction), rng.uniform(0.7, 1.6))
    normal = np.cross(direction, unit(rng))
    beam.set_polarization_normal(tuple(normal / np.linalg.norm(normal)))
    beam.set_polarization_fraction(rng.uniform())
    beam.set_flux(rng.uniform(1e9, 1e12))
    beam.set_transmission(rng.uniform())
    beam.set_divergence(rng.uniform(0, 0.1))
    if scan_points:
        s0 = np.array(beam.get_s0())
        beam.set_s0_at_scan_points(
            [tuple(turn(rng, 0.1) @ s0) for _ in range(scan_points)],
        )
    return beam


def random_panel(rng, panel, frame: np.ndarray, origin, material: str, trusted) -> None:
    panel.set_local_frame(tuple(frame[0]), tuple(frame[1]), tuple(origin))
    panel.set_image_size((int(rng.integers(5, 12)), int(rng.integers(13, 20))))
    panel.set_pixel_size((rng.uniform(0.05, 0.1), rng.uniform(0.11, 0.2)))
    panel.set_trusted_range(trusted)
    panel.set_gain(rng.uniform(0.5, 2))
    panel.set_pedestal(rng.uniform(0, 40))
    panel.set_identifier(f"id {rng.integers(1000)}")
    panel.set_type("SENSOR_PAD")
    if material:
        mu, thickness = rng.uniform(1, 5), rng.uniform(0.1, 1)
        panel.set_material(material)
        panel.set_mu(mu)
        panel.set_thickness(thickness)
        if rng.uniform() < 0.5:
            panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(mu, thickness))


def random_detector(rng, panels: int, beam, material: str = "Si") -> Detector:
    """Panels some 100 mm behind the sample; more than one stand in a hierarchy of groups."""
    detector = Detector()
    forward = -np.array(beam.get_sample_to_source_direction())
    fast = np.cross(forward, unit(rng))
    fast /= np.linalg.norm(fast)
    base = turn(rng, 15) @ np.array([fast, np.cross(forward, fast)]).T
    root = detector if panels == 1 else detector.hierarchy()
    origin = tuple(forward * 100 + rng.normal(size=3))
    if panels == 1:
        random_panel(rng, detector.add_panel(), base.T, origin, material, (-1, 65000))
        detector[0].set_name("the only one")
        return detector
    root.set_name("root")
    root.set_local_frame(tuple(base[:, 0]), tuple(base[:, 1]), origin)
    group = None
    for i in range(panels):
        if i % 2 == 0:
            group = root.add_group()
            group.set_name(f"group {i // 2}")
            frame = turn(rng, 10)
            group.set_local_frame(tuple(frame[0]), tuple(frame[1]), tuple(rng.normal(size=3)))
        panel = group.add_panel()
        panel.set_name(f"panel {i}")
        random_panel(rng, panel, turn(rng, 10), rng.normal(size=3) * 10, material, (-1, 9000 + i))
    return detector


def random_goniometer(rng, kind: str, scan_points: int = 0):
    """kind: single, settings (fixed and setting rotation) or multi (three axes)."""
    if kind == "multi":
        goniometer = MultiAxisGoniometer(
            flex.vec3_double([tuple(unit(rng)) for _ in range(3)]),
            flex.double(rng.uniform(-180, 180, size=3)),
            flex.std_string(["phi", "kappa", "omega"]),
            int(rng.integers(3)),
        )
    else:
        goniometer = Goniometer(tuple(unit(rng)))
    if kind == "settings":
        goniometer.set_fixed_rotation(turn(rng).flatten().tolist())
        goniometer.set_setting_rotation(turn(rng).flatten().tolist())
    if scan_points:
        setting = np.array(goniometer.get_setting_rotation()).reshape(3, 3)
        goniometer.set_setting_rotation_at_scan_points(
            [tuple((turn(rng, 0.1) @ setting).flatten()) for _ in range(scan_points)]
        )
    return goniometer


def random_crystal(rng, kind: str, scan_points: int = 0):
    """A triclinic crystal; kind: plain, kabsch or sauter."""
    cls = {
        "plain": Crystal,
        "kabsch": MosaicCrystalKabsch2010,
        "sauter": MosaicCrystalSauter2014,
    }[kind]
    axes = turn(rng) @ (np.diag([40.0, 55.0, 71.0]) + rng.normal(size=(3, 3)) * 5)
    crystal = cls(*[tuple(v) for v in axes.T], space_group_symbol="P1")
    if kind == "kabsch":
        crystal.set_mosaicity(0.13)
    if kind == "sauter":
        crystal.set_half_mosaicity_deg(0.07)
        crystal.set_domain_size_ang(1234.5)
    if scan_points:
        a_matrix = np.array(crystal.get_A()).reshape(3, 3)
        crystal.set_A_at_scan_points(
            [tuple((turn(rng, 0.1) @ a_matrix).flatten()) for _ in range(scan_points)]
        )
    return crystal


def random_experiment(seed: int) -> Experiment:
    """A rotation of 3 images; panels, goniometer, crystal, scan points change with the seed."""
    rng = np.random.default_rng(seed)
    first = int(rng.integers(1, 40))
    scan = Scan((first, first + 2), (rng.uniform(-180, 180), rng.uniform(0.05, 1)))
    scan.set_exposure_times([0.1, 0.1, 0.1])
    scan.set_epochs([5.0, 6.0, 7.0])
    scan.set_batch_offset(int(rng.integers(0, 100)))
    points = 4 * (seed % 2)
    beam = random_beam(rng, points)
    return Experiment(
        identifier=f"number {seed}",
        beam=beam,
        detector=random_detector(rng, 1 + seed % 4, beam, ("Si", "CdTe", "Xe", "")[seed // 2 % 4]),
        goniometer=random_goniometer(rng, ("single", "settings", "multi")[seed % 3], points),
        scan=scan,
        crystal=random_crystal(rng, ("plain", "kabsch", "sauter")[seed % 3], points),
    )


def random_counts(experiment, images: int, seed: int = 0, high: int = 60000) -> list:
    """For each image a list of panels ``[slow, fast]`` of int32."""
    rng = np.random.default_rng(seed)
    shapes = [panel.get_image_size()[::-1] for panel in experiment.detector]
    return [
        [rng.integers(0, high, size=shape, dtype=np.int32) for shape in shapes]
        for _ in range(images)
    ]
