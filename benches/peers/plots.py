"""A plot of each work that benches/peers/run.sh measured, and one of growth: python plots.py RESULTS GROWTH FOLDER."""

import os
import sys

import matplotlib

matplotlib.use("svg")
# The same figures make the same file. Text stays text, in the reader's own font.
matplotlib.rcParams.update({"svg.hashsalt": "larder", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10})

import measured
from matplotlib import pyplot

# Legible on white and on dark pages, and apart for those who tell few colours.
INK, PEER, LARDER = "#7f8790", "#d9822b", "#3a8fd8"
GROWTH = {"sqlite": "#3a8fd8", "postgres": "#d9822b"}


def plain(axes):
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(colors=INK, which="both")
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def kept(figure, folder, name):
    path = os.path.join(folder, f"{name}.svg")
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return os.path.basename(path)


def work_plot(work, folder):
    figure, axes = pyplot.subplots(figsize=(7, 1.5))
    for place, (side, colour) in enumerate((("larder", LARDER), ("peer", PEER))):
        figures = [value for value in work.figures(side, work.measure) if value is not None]
        middle = measured.middle(figures)
        axes.barh(place, middle, height=0.5, color=colour, alpha=0.35)
        axes.plot([middle, middle], [place - 0.32, place + 0.32], color=colour, linewidth=2)
        axes.scatter(figures, [place] * len(figures), color=colour, s=16, zorder=3)
        axes.annotate(
            measured.shown(work.measure, middle),
            (max(figures), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    axes.set_yticks([0, 1], ["larder", work.peer])
    axes.set_ylim(-0.5, 1.5)
    axes.set_xlim(0)
    axes.xaxis.set_major_locator(pyplot.MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda value, _: measured.shown(work.measure, value) if value else "0")
    axes.set_title(work.what, color=INK, fontsize=11, loc="left")
    plain(axes)
    axes.tick_params(axis="y", length=0)
    return kept(figure, folder, measured.plot_name(work))


def growth_plot(engines, folder):
    figure, all_axes = pyplot.subplots(1, len(measured.OPERATIONS), figsize=(13, 2.8), layout="constrained")
    for axes, (operation, title) in zip(all_axes, measured.OPERATIONS.items()):
        for engine, operations in engines.items():
            sizes = operations[operation]
            axes.plot(
                list(sizes),
                list(sizes.values()),
                marker="o",
                markersize=4,
                color=GROWTH[engine],
                label=measured.ENGINES[engine],
            )
        axes.set_xscale("log")
        axes.set_ylim(0)
        axes.set_xlabel("rows")
        axes.yaxis.set_major_locator(pyplot.MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: measured.time_shown(value) if value else "0")
        axes.set_title(title, color=INK, fontsize=10)
        axes.grid(axis="y", color=INK, alpha=0.25)
        plain(axes)
    all_axes[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    return kept(figure, folder, "growth")


def main():
    results, grown, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    names = {work_plot(work, folder) for work in measured.works(results) if not work.missing}
    engines = measured.growth(grown)
    if engines:
        names.add(growth_plot(engines, folder))
    # What is measured no more has no plot.
    for name in os.listdir(folder):
        if name.endswith(".svg") and name not in names:
            os.remove(os.path.join(folder, name))


main()
