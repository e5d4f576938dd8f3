"""A board as the JSON that Grafana loads."""

from __future__ import annotations

import warnings

from hack.boards.content import Board, Panel

# The builders call their newer form of a board the better one; only the newest Grafana loads that from a file.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.common import (
        DataSourceRef,
        LegendDisplayMode,
        LegendPlacement,
        SortOrder,
        StackingMode,
        TooltipDisplayMode,
        VisibilityMode,
    )
    from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, VariableRefresh, VariableSort

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HALF, HEIGHT = 12, 8
# The variables, in the order in which one narrows the next.
VARIABLES = {
    "namespace": "label_values(starling_shards_owned, namespace)",
    "pool": 'label_values(starling_shards_owned{namespace=~"$namespace"}, pool)',
}


def text_of(board: Board) -> str:
    """Return the board's JSON; the same board gives the same text."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["starling"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-30m", "now")
        .refresh("10s")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, query in VARIABLES.items():
        made.with_variable(_variable(name, query))
    number = 0
    for row in board.rows:
        made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            number += 1
            made.with_panel(_graph(panel).id(number))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query({"query": query, "refId": "StandardVariableQuery"})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _graph(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])
    graph = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .span(HALF)
        .height(HEIGHT)
        .line_width(1)
        .fill_opacity(40 if panel.stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .legend(legend.display_mode(LegendDisplayMode.TABLE))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if panel.stacked:
        graph.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.promql).legend_format(query.legend).ref_id(letter).range()
        graph.with_target(target.datasource(SOURCE))
    return graph
