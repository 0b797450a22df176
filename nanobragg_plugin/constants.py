"""Physical constants, each with its source."""

from __future__ import annotations

import math

#: Thomson cross-section per steradian, the square of the classical electron radius, m^2
#: (the figure of nanoBragg.c, `r_e_sqr`; CODATA 2018 gives 7.94078e-30).
R_E_SQR = 7.94079248018965e-30

#: Degrees in a radian, in the C program's order of operations (`180.0*M_1_PI`): whether a
#: phi is exactly 0 is decided with this figure (DESIGN section 5).
RTD = 180.0 * (1.0 / math.pi)

#: sqrt of the volume ratio of cube and inscribed ellipsoid, times fit (nanoBragg.c, `round`).
ROUND_SCALE = 0.723601254558268

#: Width of the gaussian that has volume and FWHM of the square crystal's peak (nanoBragg.c).
GAUSS_WIDTH_SQR = 0.63

#: Squared radius of the top hat that has volume and height of the square crystal's peak
#: (nanoBragg.c).
TOPHAT_RADIUS_SQR = 0.3969

#: Photons/m^2 that make one photon of one electron: nanoBragg.c's default, used by `classic`
#: and the golden cases only.
CLASSIC_FLUENCE = 125932015286227086360700780544.0

#: eV Angstrom: energy times wavelength of a photon, in nanoBragg.c's figure (`-energy`; CODATA 2018
#: gives 12398.4198).
EV_ANGSTROM = 12398.42
