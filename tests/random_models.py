"""Random dxtbx experiments, seeded: what adapters and formats must get right, all at once.

A tilted polarized beam, a goniometer of three axes of which the middle one scans (so that both
its fixed and its setting rotation count), a detector of four tilted panels in two groups with
rectangular pixels, a triclinic crystal, a scan that does not start at image 1; on demand every
model but the detector varies over the scan. Needs dxtbx; nothing of our package is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch  # noqa: F401  (before dxtbx: the OpenMP stub that it loads would leave one thread)
from dxtbx.imageset import ImageSequence, ImageSetFactory
from dxtbx.model import (
    Beam,
    Crystal,
    Detector,
    Experiment,
    Goniometer,
    MultiAxisGoniometer,
    ParallaxCorrectedPxMmStrategy,
    Scan,
    SimplePxMmStrategy,
)
from scitbx.array_family import flex
from scitbx.math import r3_rotation_axis_and_angle_as_matrix as axis_and_angle

Generator = np.random.Generator


@dataclass(frozen=True)
class Choice:
    """What a random experiment is to be like.

    images, width_deg of the scan; cell_edges: range of a, b, c, Angstrom; distance, mm; pixels:
    (fast, slow) of a panel; pixel_size: (fast, slow), mm; thickness, mm, and mu, 1/mm, of the
    sensor (0: none, and the simple strategy); varying: crystal, beam and goniometer have
    values at scan points.
    """

    images: int = 40
    width_deg: float = 0.15
    cell_edges: tuple[float, float] = (35.0, 60.0)
    distance: float = 150.0
    pixels: tuple[int, int] = (250, 210)
    pixel_size: tuple[float, float] = (0.10, 0.13)
    thickness: float = 0.0
    mu: float = 0.0
    varying: bool = False


def random_experiment(seed: int, choice: Choice = Choice()) -> Experiment:
    """A dxtbx Experiment with all its models, and an image sequence of files that need not be."""
    rng = np.random.default_rng(seed)
    beam = random_beam(rng)
    goniometer = random_goniometer(rng, beam)
    detector = random_detector(rng, beam, choice)
    crystal = random_crystal(rng, choice)
    first = int(rng.integers(2, 20))
    scan = Scan((first, first + choice.images - 1), (float(rng.uniform(-90, 90)), choice.width_deg))
    if choice.varying:
        vary(rng, crystal, beam, goniometer, choice.images + 1)
    experiment = Experiment()
    experiment.beam, experiment.detector, experiment.scan = beam, detector, scan
    experiment.goniometer, experiment.crystal = goniometer, crystal
    experiment.imageset = image_sequence(experiment)
    return experiment


def image_sequence(experiment: Experiment) -> ImageSequence:
    """An image sequence of the experiment's models; its files need not exist."""
    first, last = experiment.scan.get_image_range()
    return ImageSetFactory.make_sequence(
        "random_####.cbf",
        list(range(first, last + 1)),
        beam=experiment.beam,
        detector=experiment.detector,
        goniometer=experiment.goniometer,
        scan=experiment.scan,
        check_format=False,
    )


def random_beam(rng: Generator) -> Beam:
    """Within 3 degrees of +z towards the source, 0.9 to 1.1 Angstrom, partly polarized about a
    normal that is neither an axis of the laboratory nor at right angles to the beam."""
    direction = turned(rng, (0, 0, 1), 3.0)
    beam = Beam(tuple(direction), float(rng.uniform(0.9, 1.1)))
    beam.set_polarization_normal(tuple(turned(rng, (0.3, 0.95, 0.1), 5.0)))
    beam.set_polarization_fraction(float(rng.uniform(0.6, 0.999)))
    return beam


def random_goniometer(rng: Generator, beam: Beam) -> MultiAxisGoniometer:
    """Three axes, the second scans; its direction in the laboratory is 50 degrees or more from
    the beam."""
    s0 = np.array(beam.get_s0()) * beam.get_wavelength()
    while True:
        axes = flex.vec3_double([tuple(direction(rng)) for _ in range(3)])
        angles = flex.double([float(rng.uniform(-180, 180)) for _ in range(3)])
        names = flex.std_string(["phi", "chi", "omega"])
        goniometer = MultiAxisGoniometer(axes, angles, names, 1)
        if abs(s0 @ np.array(goniometer.get_rotation_axis())) < 0.64:
            return goniometer


def random_detector(rng: Generator, beam: Beam, choice: Choice) -> Detector:
    """Two groups of two panels around the beam, each level tilted by a few degrees; slow goes up
    or down."""
    size = np.array(choice.pixels) * np.array(choice.pixel_size)
    s0 = np.array(beam.get_s0()) * beam.get_wavelength()
    detector = Detector()
    root = detector.hierarchy()
    upside = matrix_of(np.array([1.0, 0.0, 0.0]), 180.0 * rng.integers(2))
    set_frame(root, rng, s0 * choice.distance, 4.0, upside)
    for i, side in enumerate((-1, 1)):
        group = root.add_group()
        group.set_name(f"group{i}")
        set_frame(group, rng, (side * (0.6 * size[0] + 2), rng.uniform(-1, 1), 0.0), 2.0)
        for j, half in enumerate((-1, 1)):
            panel = group.add_panel()
            panel.set_name(f"panel{2 * i + j}")
            centre = (0.0, half * (0.6 * size[1] + 1), 0.0)
            set_frame(panel, rng, np.array(centre) - (*size / 2, 0.0), 2.0)
            panel.set_pixel_size(choice.pixel_size)
            panel.set_image_size(choice.pixels)
            panel.set_trusted_range((-1, 1e6))
            panel.set_px_mm_strategy(SimplePxMmStrategy())
            if choice.thickness:
                panel.set_material("Si")
                panel.set_thickness(choice.thickness)
                panel.set_mu(choice.mu)
                strategy = ParallaxCorrectedPxMmStrategy(choice.mu, choice.thickness)
                panel.set_px_mm_strategy(strategy)
    return detector


def set_frame(
    frame: object,
    rng: Generator,
    origin: np.ndarray,
    degrees: float,
    turn: np.ndarray | None = None,
) -> None:
    """Axes within `degrees` of x and y (turned by `turn`, if given), at `origin`, mm, all in
    the frame of the level above."""
    matrix = small_rotation(rng, degrees)
    matrix = matrix if turn is None else matrix @ turn
    frame.set_local_frame(tuple(matrix[:, 0]), tuple(matrix[:, 1]), tuple(map(float, origin)))


def random_crystal(rng: Generator, choice: Choice) -> Crystal:
    """Triclinic, angles 75 to 105 degrees, in any orientation."""
    a, b, c = rng.uniform(*choice.cell_edges, 3)
    ca, cb, cg = np.cos(np.radians(rng.uniform(75, 105, 3)))
    sg = np.sqrt(1 - cg**2)
    cy = (ca - cb * cg) / sg
    vectors = np.array(
        [[a, 0, 0], [b * cg, b * sg, 0], [c * cb, c * cy, c * np.sqrt(1 - cb**2 - cy**2)]]
    )
    turn = matrix_of(direction(rng), float(rng.uniform(0, 360)))
    return Crystal(*(tuple(map(float, turn @ v)) for v in vectors), space_group_symbol="P1")


def vary(rng: Generator, crystal: Crystal, beam: Beam, goniometer: Goniometer, points: int) -> None:
    """Smooth drifts over the scan: the crystal by 0.3 degrees and 0.3 % of its cell, the beam by
    0.02 degrees, the setting rotation by 0.1 degrees. They bend but little: where the drift
    changes within a reflection's passage, its centroid is not where its centre diffracts."""
    steps = np.linspace(0, 1, points)
    static = np.array(crystal.get_A()).reshape(3, 3)
    axes = [direction(rng) for _ in range(3)]
    swelling = 1 + 0.003 * rng.uniform(-1, 1, 3)
    matrices, beams, settings = [], [], []
    for t in steps:
        bend = t + 0.05 * np.sin(np.pi * t)
        matrices.append(matrix_of(axes[0], 0.3 * bend) @ static @ np.diag(swelling**t))
        beams.append(matrix_of(axes[1], 0.02 * bend) @ np.array(beam.get_s0()))
        setting = np.array(goniometer.get_setting_rotation()).reshape(3, 3)
        settings.append(matrix_of(axes[2], 0.1 * bend) @ setting)
    crystal.set_A_at_scan_points([tuple(m.flatten()) for m in matrices])
    beam.set_s0_at_scan_points([tuple(v) for v in beams])
    goniometer.set_setting_rotation_at_scan_points([tuple(m.flatten()) for m in settings])


def direction(rng: Generator) -> np.ndarray:
    """A unit vector, uniform over the sphere."""
    v = rng.normal(size=3)
    return v / np.linalg.norm(v)


def matrix_of(axis: np.ndarray, degrees: float) -> np.ndarray:
    """[3, 3] right-handed rotation, by scitbx."""
    return np.array(axis_and_angle(tuple(axis), degrees, deg=True)).reshape(3, 3)


def small_rotation(rng: Generator, degrees: float) -> np.ndarray:
    """[3, 3] rotation by up to `degrees` about any axis."""
    return matrix_of(direction(rng), float(rng.uniform(-degrees, degrees)))


def turned(rng: Generator, v: tuple[float, float, float], degrees: float) -> np.ndarray:
    """The unit vector along v, turned by up to `degrees`."""
    v = small_rotation(rng, degrees) @ np.array(v, dtype=float)
    return v / np.linalg.norm(v)
