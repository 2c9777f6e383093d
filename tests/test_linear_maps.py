"""Linear maps: each operation of each kind is that of its matrices; forms are read or refused."""

import pytest
import torch
from odd_inputs import refused
from statistical import F64, points

from markovscore.core import Dense, Diagonal, Scalar, read_jacobian

N, D = 5, 3
COVARIANCE = points(D * N, D, 2).reshape(N, D, D) + 4 * torch.eye(D)
KINDS = {
    "number": Scalar(torch.tensor(0.7, dtype=F64)),
    "number, rows": Scalar(points(N, 1, 3).abs()),
    "diagonal": Diagonal(points(1, D, 4)[0].abs()),
    "diagonal, rows": Diagonal(points(N, D, 5).abs()),
    "matrix": Dense(points(D, D, 6)),
    "matrix, rows": Dense(points(D * N, D, 7).reshape(N, D, D)),
}
WIDE = {"wide": Dense(points(D, 4, 8)), "wide, rows": Dense(points(D * N, 4, 9).reshape(N, D, 4))}


def matrices(A):
    """``(N, D, m)`` by applying the map to unit vectors: nothing of its own matrix."""
    columns = [A @ axis.expand(N, -1) for axis in torch.eye(A.columns(D), dtype=F64)]
    return torch.stack(columns, 2)


@pytest.mark.parametrize("name", KINDS | WIDE)
def test_every_operation_is_that_of_the_matrices(name):
    A = (KINDS | WIDE)[name]
    M, z, u = matrices(A), points(N, A.columns(D)), points(N, D, 1)
    close = torch.testing.assert_close
    close(A.matrix(D).expand(N, -1, -1), M)
    close(A @ z, torch.einsum("nij,nj->ni", M, z))
    close(A.T @ u, torch.einsum("nji,nj->ni", M, u))
    close(matrices(A.gram()), M @ M.mT)
    close(A.whitened(z), torch.einsum("nij,nj->ni", torch.linalg.inv(M @ M.mT) @ M, z))
    for factor in (torch.tensor(-0.3, dtype=F64), points(N, 1, 2)):
        close(matrices(A.times(factor)), factor.reshape(-1, 1, 1) * M)
    close(A.add_to(u.clone(), z, 0.4), u + 0.4 * (A @ z))
    close(A.row_norm().expand(N), M.abs().sum(2).amax(1))
    assert A.is_diagonal == (not isinstance(A, Dense))
    if len(A.matrix(D).shape) == 3:
        close(A.first(2).matrix(D), M[:2])
    if A.columns(D) == D:
        close(A.trace(D).expand(N), M.diagonal(dim1=1, dim2=2).sum(1))


@pytest.mark.parametrize("name", KINDS)
def test_a_factor_gives_its_covariance_back(name):
    P = KINDS[name].gram()
    C, silent = P.cholesky()
    assert not silent.any()
    L = matrices(C)
    torch.testing.assert_close(L @ L.mT, matrices(P))
    assert torch.equal(L, L.tril())


def test_coordinates_without_variance_are_named_and_nothing_is_divided_by_zero():
    z = points(2, 3)
    for A, axis in (
        (Diagonal([[1.0, 2.0, 3.0], [1.0, 0.0, 3.0]]), [1, 1]),
        (Dense(torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 0, 1]], dtype=F64)), [0, 1]),
        (Scalar(torch.tensor([[1.0], [0.0]], dtype=F64)), [1, 0]),
    ):
        assert A.whitened(z) is None
        assert A.gram().cholesky()[1].nonzero().tolist() == [axis]
    assert Diagonal([[1.0, -2.0]]).cholesky()[1].tolist() == [[False, True]]


@pytest.mark.parametrize("n", [3, 5])
def test_jacobians_are_read_once(n):
    y = points(n, 3)
    assert isinstance(read_jacobian(y, y), Diagonal)
    assert isinstance(read_jacobian(points(3 * n, 3).reshape(n, 3, 3), y), Dense)
    for wrong in (
        points(3, 2),
        points(n + 1, 3),
        y[:, :1],
        points(9, 3).reshape(3, 3, 3)[:1],
        y[0],
    ):
        refused(
            r"hessian: expected shape \(\d, 3, 3\), or \(\d, 3\)",
            read_jacobian,
            wrong,
            y,
            "hessian",
        )
