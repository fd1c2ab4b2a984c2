"""Every figure of a fitted object draws what it says: assertions on the artists, on tables with a
known law.
"""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Outline

from stepladder.analysis.decide.allocate import allocate
from stepladder.analysis.decide.backtest.error_map import error_map
from stepladder.analysis.decide.isoflop import isoflop
from stepladder.analysis.figures.registry import plot, save
from stepladder.analysis.figures.style import TARGET
from stepladder.analysis.fit.bootstrap import bootstrap
from stepladder.analysis.fit.fit import fit
from stepladder.analysis.fit.interval import prediction_interval, profile
from stepladder.analysis.fit.result import from_dict
from stepladder.configs.core.errors import UserError

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
NOISE = 0.003


@pytest.fixture(scope="module")
def points():
    """Seven sizes at five budgets."""
    n, c = (
        v.ravel() for v in np.meshgrid(np.geomspace(2e7, 1.28e9, 7), np.geomspace(1e19, 1e21, 5))
    )
    d = c / 6 / n
    loss = (E + A / n**ALPHA + B / d**BETA) * np.exp(
        NOISE * np.random.default_rng(0).standard_normal(len(n))
    )
    return pd.DataFrame({"N": n, "D": d, "C": c, "loss": loss})


@pytest.fixture(scope="module")
def fitted(points):
    return fit(points, objective="squared_log")


@pytest.fixture(scope="module")
def refits(fitted):
    return bootstrap(fitted, 400)


def of_label(axes, pattern):
    """The one artist whose label matches."""
    found = [a for a in axes.get_children() if re.search(pattern, str(a.get_label()))]
    assert len(found) == 1, [str(a.get_label()) for a in axes.get_children()]
    return found[0]


def lines(axes, style):
    return [line for line in axes.lines if line.get_linestyle() == style]


def test_residuals_are_the_points_above_the_law(fitted, points):
    left, right = plot(fitted).axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("N, parameters", "D, tokens")
    assert (
        left.get_ylabel() == "loss above the law, %"
        and left.get_xscale() == right.get_xscale() == "log"
    )
    for axes, name in ((left, "N"), (right, "D")):
        dots = np.array([line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"])
        np.testing.assert_allclose(dots[:, 0], points[name])
        np.testing.assert_allclose(
            dots[:, 1], 100 * np.log(points["loss"] / fitted.predict(N=points["N"], D=points["D"]))
        )
        (band,) = (p for p in axes.patches if p.get_alpha())
        np.testing.assert_allclose(band.get_xy()[1], -200 * fitted.residual_sd)


def test_residuals_in_loss_units_and_hollow_where_the_weight_is_zero(points):
    found = fit(points.assign(w=[0.0, *np.ones(len(points) - 1)]), objective="squared", weights="w")
    axes = plot(found, "residuals").axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert axes.get_ylabel() == "loss above the law, nats per token" and len(dots) == len(points)
    assert [line.get_markerfacecolor() == "none" for line in dots] == [True] + [False] * (
        len(points) - 1
    )
    np.testing.assert_allclose(
        dots[3].get_ydata()[0],
        points["loss"][3] - found.predict(N=points["N"][3], D=points["D"][3]),
    )


def test_contours_have_their_lines_points_path_and_target(fitted, points):
    target = {"N": 7e9, "D": 2e11}
    (axes,) = plot(fitted, "contours", target=target).axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == (
        "N, parameters",
        "D, tokens",
        "Equal loss, nats per token",
    )
    (drawn,) = (c for c in axes.collections if hasattr(c, "levels"))
    assert len(drawn.levels) == 11 and (np.diff(drawn.levels) > 0).all()
    level, outline = drawn.levels[4], drawn.get_paths()[4].vertices
    np.testing.assert_allclose(fitted.predict(N=outline[:, 0], D=outline[:, 1]), level, rtol=1e-3)
    np.testing.assert_allclose(of_label(axes, "^points$").get_offsets(), points[["N", "D"]])
    n, d = of_label(axes, "^compute-optimal").get_data()
    best = allocate(fitted, 6 * n[50] * d[50])
    assert pytest.approx((n[50], d[50]), rel=1e-9) == (best.N, best.D)
    assert of_label(axes, "^compute-optimal").get_label().endswith(f"C^{best.exponent:.3f}")
    assert [t.get_text() for t in axes.texts if "FLOPs" in t.get_text()] == [
        f"1e{k} FLOPs" for k in (18, 19, 20, 21, 22)
    ]
    assert of_label(axes, "^target$").get_xydata()[0] == pytest.approx(tuple(target.values()))
    assert axes.get_xlim()[1] > 7e9 and axes.get_ylim()[1] > points["D"].max()


def test_contours_of_a_law_with_more_inputs_are_at_its_largest_point():
    n, d, u = (v.ravel() for v in np.meshgrid([1e7, 1e8, 1e9], [1e9, 1e10, 1e11], [1e9, 4e9, 2e10]))
    d2 = u / 10
    loss = E + A / n**ALPHA + B / (d + d2) ** BETA
    found = fit(
        pd.DataFrame({"N": n, "D": d, "D2": d2, "loss": loss}), "h0", objective="squared_log"
    )
    assert "at D2 = 2B" in plot(found, "contours").axes[0].get_title(loc="left")
    assert "at D2 = 100M" in plot(found, "contours", D2=1e8).axes[0].get_title(loc="left")
    # tokens may be 0 in this law: no logarithms
    assert plot(found, "extrapolation").axes[0].get_xlabel() == "N, parameters"


def test_band_of_new_runs_is_the_prediction_interval(fitted, points):
    at = {"N": 7e9, "D": 2e11}
    (axes,) = plot(fitted, "extrapolation", at=at).axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == (
        "D, tokens",
        "loss, nats per token",
        "log",
    )
    band = of_label(axes, "^90% of new runs$").get_paths()[0].vertices
    (here,) = (
        c
        for c in axes.collections
        if len(c.get_paths()) == 1 and len(c.get_paths()[0].vertices) == 2
    )
    low, high = here.get_paths()[0].vertices[:, 1]
    (wanted,) = prediction_interval(fitted, at, resamples=4000)
    assert (low, high) == pytest.approx(
        (wanted.low, wanted.high), abs=0.3 * (wanted.high - wanted.low)
    )
    at_d = band[np.isclose(band[:, 0], at["D"]), 1]
    assert (at_d.min(), at_d.max()) == pytest.approx((low, high))
    marker = of_label(axes, "^2.1.* at N = 7B, D = 200B$")
    assert marker.get_xydata()[0] == pytest.approx((2e11, fitted.predict(**at)))
    dots = np.concatenate([line.get_xydata() for line in axes.lines if line.get_marker() == "o"])
    np.testing.assert_allclose(
        dots[np.argsort(dots[:, 1])], points[["D", "loss"]].sort_values("loss"), rtol=1e-9
    )
    named = [t.get_text() for t in axes.get_legend().get_texts() if t.get_text().startswith("N =")]
    assert (
        len(named) == len(lines(axes, "-")) == 6
        and named[0] == "N = 20M"
        and named[-1] == "N = 1.28B"
    )


def test_band_of_refits_is_the_bootstrap_s(fitted, refits):
    at = {"N": 7e9, "D": 2e11}
    (axes,) = plot(fitted, "extrapolation", bootstrap=refits, at=at).axes
    band = of_label(axes, "^90% of 400 refits$").get_paths()[0].vertices
    values = band[np.isclose(band[:, 0], at["D"]), 1]
    assert (values.min(), values.max()) == pytest.approx(refits.predict(**at)[1:])


def test_extrapolation_by_default_goes_ten_times_beyond_the_largest_point(fitted, points):
    (axes,) = plot(fitted, "extrapolation").axes
    marker = of_label(axes, " at N = ")
    assert marker.get_xydata()[0][0] == pytest.approx(10 * points["D"].max())
    size = (
        float(re.search("N = ([0-9.]+)M,", marker.get_label().replace("1.28B", "1280M"))[1]) * 1e6
    )
    assert marker.get_xydata()[0][1] == pytest.approx(
        fitted.predict(N=size, D=10 * points["D"].max()), rel=1e-6
    )


def test_a_law_of_compute_has_readable_flops(points):
    (axes,) = plot(fit(points, "power_c", objective="squared_log"), "extrapolation").axes
    assert axes.get_xlabel() == "C, FLOPs" and of_label(axes, "at C = 1e\\+22$")
    assert axes.xaxis.get_major_formatter()(1e21, 0) == "1e21"
    assert of_label(axes, "^points$")  # one curve only


def test_without_a_degree_of_freedom_there_is_no_band(points):
    few = pd.DataFrame({"C": [1e19, 1e20], "loss": [3.0, 2.6]})
    (axes,) = plot(fit(few, "power_c", objective="squared_log"), "extrapolation").axes
    assert not axes.collections


def test_ellipses_hold_what_they_say(refits):
    figure = plot(refits, level=0.9)
    side = len(refits.params.columns) - 1
    drawn = [axes for axes in figure.axes if axes.lines]
    assert len(figure.axes) == side**2 and len(drawn) == side * (side + 1) // 2
    for axes in drawn:
        cloud, outline, optimum = (line.get_xydata() for line in axes.lines)
        assert axes.get_xscale() == axes.get_yscale() == "log" and len(cloud) == len(refits.params)
        inside = Outline(np.log(outline)).contains_points(np.log(cloud))
        assert 0.88 <= inside.mean() <= 0.92
        assert Outline(np.log(outline)).contains_points(np.log(optimum)).all()
        assert axes.get_title(loc="left") == f"r = {np.corrcoef(np.log(cloud).T)[0, 1]:.2f}"
    names = list(refits.params)
    assert [a.get_xlabel() for a in figure.axes[-side:]] == names[:-1]
    assert [a.get_ylabel() for a in figure.axes[::side]] == names[1:]
    half = Outline(np.log(plot(refits, level=0.5).axes[0].lines[1].get_xydata()))
    assert half.contains_points(
        np.log(figure.axes[0].lines[0].get_xydata())
    ).mean() == pytest.approx(0.5, abs=0.02)


def test_ellipses_leave_out_what_was_held_and_take_signed_parameters_as_they_are(points):
    held = bootstrap(fit(points, objective="squared_log", fixed={"E": E, "alpha": ALPHA}), 60)
    assert [a.get_ylabel() for a in plot(held).axes[::2]] == ["B", "beta"]
    signed = plot(bootstrap(fit(points, "power_c", objective="squared_log"), 60)).axes[0]
    assert (signed.get_xscale(), signed.get_yscale()) == ("log", "linear")
    with pytest.raises(UserError, match="fewer than two parameters vary"):
        plot(bootstrap(fit(points, "power_c", objective="squared_log", fixed={"alpha": 0.05}), 20))


def test_isoflop_draws_parabolas_minima_and_the_power_law(points):
    found = isoflop(points)
    profiles, growth = plot(found, points=points).axes
    assert (profiles.get_xlabel(), profiles.get_ylabel()) == (
        "N, parameters",
        "loss, nats per token",
    )
    assert (growth.get_xlabel(), growth.get_ylabel(), growth.get_yscale()) == (
        "C, FLOPs",
        "N*, parameters",
        "log",
    )
    curves = [line for line in lines(profiles, "-") if len(line.get_xdata()) == 40]
    dots = [line for line in profiles.lines if line.get_marker() == "o"]
    assert len(curves) == len(dots) == len(found.minima) == 5
    for curve, seen, m in zip(curves, dots, found.minima):
        n, loss = curve.get_data()
        np.testing.assert_allclose(
            np.polyfit(np.log(n / m.N), loss, 2), [m.curvature, 0, m.loss], atol=1e-8
        )
        assert (n[0], n[-1]) == pytest.approx((points["N"].min(), points["N"].max()))
        np.testing.assert_allclose(seen.get_ydata(), points["loss"][np.isclose(points["C"], m.C)])
    stars = [line for line in profiles.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(
        [s.get_xydata()[0] for s in stars], [(m.N, m.loss) for m in found.minima]
    )
    law = of_label(growth, "^N. ~ C")
    low, high = found.N.exponent_interval
    assert law.get_label() == f"N* ~ C^{found.N.exponent:.3f} ({low:.3f} to {high:.3f})"
    np.testing.assert_allclose(law.get_ydata(), found.N.at(law.get_xdata()))
    (bars,) = growth.containers
    ends = np.array([s for s in bars.lines[2][0].get_segments()])[:, :, 1]
    np.testing.assert_allclose(ends, [m.N_interval for m in found.minima])
    without = plot(found).axes[0]
    assert (
        len(lines(without, "-")) >= 5 and without.get_legend().get_title().get_text() == "C, FLOPs"
    )


def test_isoflop_marks_the_refused(points):
    # of the largest budget only sizes below its minimum
    narrow = points[(points["C"] < 9e20) | (points["N"] < 3e8)]
    found = isoflop(narrow)
    figure = plot(found, points=narrow)
    profiles, growth = figure.axes
    assert found.minima[-1].refused and found.minima[-1].refused in figure.get_supxlabel()
    hollow = [
        line
        for line in profiles.lines
        if line.get_markerfacecolor() == "none" and line.get_marker() == "o"
    ]
    assert len(hollow) == 1 and hollow[0].get_label().endswith("refused")
    assert of_label(growth, r"^refused \(1\)$").get_xdata() == pytest.approx([found.minima[-1].C])
    only = narrow[narrow["C"] > 9e20]
    nothing = isoflop(only)
    assert len(plot(nothing, points=only).axes) == 1
    with pytest.raises(UserError, match="all 1 budgets were refused"):
        plot(nothing)
    with pytest.raises(UserError, match="no column 'C'"):
        plot(found, points=points[["N", "loss"]])


def test_interpolated_isoflop_joins_the_points(points):
    found = isoflop(points, method="akima", noise=0.003, draws=100)
    joined = [
        line
        for line in lines(plot(found, points=points).axes[0], "-")
        if len(line.get_xdata()) == 7
    ]
    assert len(joined) == sum(not m.refused for m in found.minima) >= 3


def test_profile_shows_interval_and_limit(fitted):
    found = profile(fitted, "E")
    (axes,) = plot(found).axes
    band, limit = of_label(axes, "^90% interval$"), of_label(axes, "^limit$").get_ydata()[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((found.low, found.high))
    assert np.interp(found.high, found.frame["value"], found.frame["ratio"]) == pytest.approx(
        limit, rel=1e-3
    )
    assert (
        axes.get_xlabel() == "E"
        and axes.get_xscale() == "log"
        and axes.get_title(loc="left") == str(found)
    )
    assert axes.get_xlim()[0] < found.low < found.high < axes.get_xlim()[1]
    open_side = profile(fitted, "E", width=0.1)  # the grid ends inside of the interval
    (axes,) = plot(open_side).axes
    assert open_side.low is None and open_side.high is None
    band = of_label(axes, "^90% interval$")
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(axes.get_xlim())


def test_error_map_is_of_its_family(points):
    table = points.assign(model=[f"{n / 1e6:.0f}M" for n in points["N"]], family="ours")
    found = error_map(table, fractions=(0.5, 1.0))
    (axes,) = plot(found).axes
    assert axes.get_title(loc="left") == "ours: error of the forecast of 1280M, %"
    mesh = next(c for c in axes.collections if c.get_array() is not None).get_array()
    np.testing.assert_allclose(np.ma.filled(mesh, np.nan), found.are)
    assert plot(found, title="mine").axes[0].get_title(loc="left") == "mine"


def test_save_writes_every_plot_that_applies(fitted, refits, points, tmp_path):
    paths = save(fitted, refits, tmp_path / "new" / "folder")
    assert [p.name for p in paths] == [
        "residuals.svg",
        "contours.svg",
        "extrapolation.svg",
        "ellipses.svg",
    ]
    for path in paths:
        root = ElementTree.parse(path).getroot()
        assert (
            root.tag.endswith("svg")
            and float(root.get("width").removesuffix("pt")) > 100
            and path.stat().st_size < 1e6
        )
    assert "90% of 400 refits" in (tmp_path / "new" / "folder" / "extrapolation.svg").read_text()
    again = save(fitted, refits, tmp_path / "again")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]
    compute = save(fit(points, "power_c", objective="squared_log"), None, tmp_path / "c")
    assert [p.name for p in compute] == ["residuals.svg", "extrapolation.svg"]
    assert save(from_dict(fitted.to_dict()), None, tmp_path / "none") == []


def test_a_file_in_place_of_the_folder_is_refused(fitted, tmp_path):
    (tmp_path / "figures").write_text("mine")
    with pytest.raises(UserError, match="figures="):
        save(fitted, None, tmp_path / "figures")


def test_refusals_name_what_to_do(fitted, refits, points):
    with pytest.raises(
        UserError, match="kind='': no plot of a dict; there are plots of: Bootstrap"
    ):
        plot({})
    with pytest.raises(UserError, match="n: not an input of law chinchilla"):
        plot(fitted, "contours", n=1e9)
    with pytest.raises(
        UserError, match="kind='contour': no plot of a Fit; did you mean 'contours'"
    ):
        plot(fitted, "contour")
    with pytest.raises(
        UserError, match="kind='residuals': no plot of a Bootstrap; known: ellipses"
    ):
        plot(refits, "residuals")
    with pytest.raises(UserError, match="law='power_c': contours are over N and D"):
        plot(fit(points, "power_c"), "contours")
    with pytest.raises(UserError, match="needs D"):
        plot(fitted, "extrapolation", at={"N": 1e9})
    with pytest.raises(UserError, match="bootstrap.fit.law='chinchilla': the fit is of 'gadre'"):
        plot(fit(points, "gadre"), "extrapolation", bootstrap=refits)
    for found, kind in ((fitted, "extrapolation"), (refits, "ellipses")):
        with pytest.raises(UserError, match="level=90"):
            plot(found, kind, level=90)
    for kind in ("residuals", "contours", "extrapolation"):
        with pytest.raises(UserError, match="read from a file; fit them again"):
            plot(from_dict(fitted.to_dict()), kind)


def test_colours_are_the_report_s(fitted):
    (axes,) = plot(fitted, "extrapolation").axes
    assert of_label(axes, "of new runs$").get_facecolor()[0][:3] == pytest.approx(
        [int(TARGET[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )
