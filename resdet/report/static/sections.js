// The sections of the page: those without content are left out, with their entry in the menu.

import { calibrationChart, errorTable, histogram } from "./bars.js";
import { comparison, configTable } from "./compare.js";
import { confusionMatrix } from "./confusion.js";
import { button, el } from "./dom.js";
import { cell } from "./format.js";
import { groupsOf } from "./gallery.js";
import { lineChart } from "./lines.js";
import { dataTable, factList } from "./table.js";

const GALLERY_OF_ERROR = "false_positives";
const MISSED = "missed";

/** [{id, title, content}] of a run; `gallery` is its node, `open(changes)` shows pictures. */
export function sectionsOf({ report, state, gallery, open }) {
  const run = report.runs[state.run];
  const many = report.runs.length > 1;
  const section = (id, title, ...content) => ({
    id,
    title,
    content: content.flat().filter(Boolean),
  });
  return [
    section("overview", "Overview", overview(report, run)),
    section("comparison", "Comparison", many ? comparison(report) : []),
    section("pictures", "Pictures", gallery),
    section("errors", "Errors", errors(report, state, run, open)),
    section("metrics", "Metrics", run.metrics && dataTable(run.metrics)),
    section(
      "classes",
      "Classes",
      run.per_class.map((table) => perClass(report, state, run, table, open)),
    ),
    section(
      "precision-recall",
      "Precision and recall",
      grid(run.precision_recall.map((chart) => lineChart(chart))),
    ),
    section("confidence", "Score threshold", run.confidence.map(confidence)),
    section("confusion", "Confusion", run.confusion.map(confusionMatrix)),
    section("calibration", "Calibration", grid(run.calibration.map(calibrationChart))),
    section(
      "breakdowns",
      "Breakdowns",
      grid(run.breakdowns.map((table) => dataTable(table, { titled: true }))),
    ),
    section("training", "Training", grid(run.curves.map((chart) => lineChart(chart)))),
    section("data", "Data", run.statistics.map(statistics)),
    section(
      "config",
      "Config",
      run.config_differences.length > 0 &&
        configTable(
          run.config_differences,
          "Keys that differ from the defaults",
          "default",
          "this run",
        ),
    ),
  ].filter(({ content }) => content.length > 0);
}

function grid(nodes) {
  return nodes.length > 0 ? el("div", { class: "grid" }, nodes) : null;
}

/** Notes, the main numbers, and the facts. */
function overview(report, run) {
  const notes = [...report.notes, ...run.notes];
  return [
    notes.length > 0
      ? el(
          "ul",
          { class: "notes" },
          notes.map((note) => el("li", {}, note)),
        )
      : null,
    run.metrics ? headline(run.metrics) : null,
    run.facts.length > 0 ? factList(run.facts) : null,
  ];
}

/** The first two numbers of each row of the metrics. */
function headline({ columns, rows, formats }) {
  const tiles = rows.flatMap((row) =>
    columns
      .map((name, i) => ({ name, value: row[i], format: formats[i] }))
      .filter(({ value, format }) => typeof value === "number" && format !== "text")
      .slice(0, 2)
      .map(({ name, value, format }) => ({
        name: `${row[0]} ${name}`,
        value: cell(value, format),
      })),
  );
  return el(
    "dl",
    { class: "tiles" },
    tiles.map(({ name, value }) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

function errors(report, state, run, open) {
  const groups = groupsOf(report, state.run);
  const has = (key, error) =>
    groups.some(
      (group) =>
        group.key === key && group.items.some((item) => error === "" || item.error === error),
    );
  const opener = (name) => {
    if (name === "Miss") return has(MISSED, "") ? () => open({ group: MISSED }) : null;
    return has(GALLERY_OF_ERROR, name)
      ? () => open({ group: GALLERY_OF_ERROR, error: name })
      : null;
  };
  return run.errors.map((each) => errorTable(each, groups.length > 0 ? opener : null));
}

/** AP per class; a name with pictures is a button that shows them. */
function perClass(report, state, run, table, open) {
  const names = report.runs[0].class_names;
  const shown = new Set(
    groupsOf(report, state.run).flatMap(({ items }) => items.flatMap((item) => item.labels)),
  );
  const lead = (row) => {
    const label = names.indexOf(row[0]);
    if (label < 0 || !shown.has(label)) return cell(row[0], "text");
    return button(row[0], () => open({ label }), {
      class: "link",
      title: `Show pictures of ${row[0]}`,
    });
  };
  return dataTable(table, { lead, titled: run.per_class.length > 1 });
}

function confidence({ chart, classes }) {
  return grid([
    lineChart(chart),
    ...(classes.rows.length > 0 ? [dataTable(classes, { titled: true })] : []),
  ]);
}

function statistics({ name, facts, classes, bars }) {
  return el(
    "div",
    { class: "stack" },
    el("h3", {}, name),
    facts.length > 0 ? factList(facts) : null,
    grid(bars.map(histogram)),
    classes && classes.rows.length > 0 ? dataTable(classes, { titled: true }) : null,
  );
}
