// Probabilities for people: the stops of a slider, digits, levels of colour, and places on a log-odds axis.
// Bounds that matter lie near 0 and 1 (0.01, 0.9999), where a linear scale has no room.

const LOW = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4];

/** The values a slider stops at, symmetric around one half. */
export const STOPS = [...LOW, 0.5, ...LOW.map((p) => Number((1 - p).toFixed(4))).reverse()];

/** Where one level of colour ends and the next begins. */
export const EDGES = [0.01, 0.1, 0.3, 0.7, 0.9, 0.99];

/** Ticks of a log-odds axis. */
export const TICKS = [0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999];

const REACH = Math.log(0.99999 / 0.00001);

/** 0 to 6: how strongly a token is coloured. */
export const level = (p) => EDGES.filter((edge) => p >= edge).length;

/** 0 (certainly not) to 1 (certainly) on a log-odds scale that ends at 0.00001 and 0.99999. */
export function place(p) {
  const clipped = Math.min(Math.max(p, 1e-12), 1 - 1e-12);
  const logit = Math.log(clipped / (1 - clipped));
  return (Math.min(Math.max(logit, -REACH), REACH) / REACH + 1) / 2;
}

/** The stop nearest to a probability, as its index. */
export function nearestStop(p) {
  let best = 0;
  STOPS.forEach((stop, index) => {
    if (Math.abs(place(stop) - place(p)) < Math.abs(place(STOPS[best]) - place(p))) best = index;
  });
  return best;
}

/** Enough digits to tell a value from 0, from 1 and from its neighbours: 0.0004, 0.37, 0.99987. */
export function digits(p) {
  if (p === null || p === undefined) return "not calibrated";
  if (p <= 0 || p >= 1) return String(p);
  const edge = Math.min(p, 1 - p);
  if (edge < 1e-6) return p < 0.5 ? "<0.000001" : ">0.999999";
  const places = Math.max(2, 1 - Math.floor(Math.log10(edge)));
  const shown = Number(p.toFixed(places));
  return String(shown === 0 || shown === 1 ? p.toFixed(places + 1) : shown);
}

/** A share of a whole, such as a dose: 0.0312 is "3.1 %". */
export function percent(share) {
  const value = 100 * share;
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 || value === 0 ? value.toFixed(1) : "<0.1"} %`.replace(
    "0.0 %",
    "0 %",
  );
}
