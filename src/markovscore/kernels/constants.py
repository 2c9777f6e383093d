"""What a kernel and its PyTorch twin share, and the name of the variable that chooses."""

VARIABLE = "MARKOVSCORE_KERNELS"

# Noise reaches this many standard deviations beyond the data: once in 16,000 times more.
REACH = 4.0

# Further out float32 has lost the angle, and the kernel's reduction to [-pi/4, pi/4] its accuracy.
MAX_COORDINATE = 2.0**20

# h y^2 of a coordinate with a cubic drift: a step that ends there grew it a thousandfold, for then
# y = h y_0^3, and h y_0^2 = (h y^2)^(1/3). A stable step has h y^2 < 2.
DIVERGED = 1e9

# theta of the Taylor polynomial of degree m: the largest norm for which it is the exponential of a
# matrix within half a unit of rounding u of A, sum_{k > m} |c_k| theta^(k - 1) <= u for
# log(e^{-x} T_m(x)) = sum c_k x^k (Higham 2005, SIAM J. Matrix Anal. 26, section 2, for T_m).
THETA = {9: 0.7795113379, 12: 1.4616615, 15: 0.6410835233, 18: 1.0908637}

# Philox4x32-10, and what makes normals of its words

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
# Minimax polynomials, lowest power first. (ln(1 + f) - f) / f^2 on [sqrt(1/2) - 1, sqrt(2) - 1],
# relative error of the logarithm 3e-8:
LOG = (-0.4999999106, 0.3333395123, -0.2500175536, 0.1996207237,
       -0.1657050848, 0.1491797417, -0.1430751830, 0.0873483644)  # fmt: skip
# sin(pi s / 4) / s and cos(pi s / 4) in s^2 for |s| <= 1, errors 2.4e-9 and 2.8e-8:
SIN = (0.7853981853, -0.0807454363, 0.0024900071, -3.5954534e-05)
COS = (1.0, -0.3084242642, 0.0158499163, -3.1888081e-04)
LN2 = 0.6931471806
