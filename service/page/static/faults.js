// A refusal is shown where it can be mended: at the slider, field or turn its `param` names.

import { byId } from "./dom.js";

const SAMPLING = ["temperature", "top_p", "max_tokens", "max_completion_tokens", "seed"];

/** Show `refusal` at its field; false when it names none of ours. */
export function showFault({ param, message }) {
  if (!param) return false;
  const [, index] = /^steering\.constraints\.(\d+)/.exec(param) ?? [];
  const place =
    (index !== undefined && byId(`concept-${index}-fault`)) ||
    (param.startsWith("steering") && byId("steering-fault")) ||
    (SAMPLING.includes(param) && byId("sampling-fault")) ||
    (param.startsWith("prompt") && byId("prompt-fault")) ||
    (param.startsWith("messages") && byId("messages-fault"));
  if (!place) return false;
  const bare = message.startsWith(`${param}: `) ? message.slice(param.length + 2) : message;
  place.textContent = bare;
  place.hidden = false;
  const field = document.querySelector(`[data-param="${CSS.escape(param)}"]`);
  field?.setAttribute("aria-invalid", "true");
  if (field && !field.hasAttribute("aria-describedby")) field.setAttribute("aria-describedby", place.id);
  (field ?? place).scrollIntoView({ block: "nearest" });
  field?.focus();
  return true;
}

export function clearFaults() {
  for (const place of document.querySelectorAll(".fault")) place.hidden = true;
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}
