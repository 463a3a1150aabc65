// The turns of a chat, each with who says it.

import { h } from "./dom.js";

const WHO = { system: "Instruction", user: "You", assistant: "Model" };

/** Draw `messages` into `place`; `changed(messages, focus)` gets a new list, and the turn to look at next. */
export function drawTurns(place, messages, changed) {
  place.replaceChildren(
    ...messages.map((turn, index) => {
      const id = `turn-${index}`;
      const text = h("textarea", {
        id,
        rows: turn.role === "system" ? 2 : 3,
        "data-param": `messages.${index}`,
        oninput: (event) => {
          turn.content = event.target.value;
          changed(messages, null);
        },
      });
      text.value = turn.content;
      const who = h(
        "select",
        {
          "aria-label": `Who says turn ${index + 1}`,
          onchange: (event) => {
            turn.role = event.target.value;
            changed([...messages], index);
          },
        },
        ...Object.entries(WHO).map(([role, name]) => h("option", { value: role, selected: role === turn.role }, name)),
      );
      const remove = h(
        "button",
        {
          type: "button",
          class: "quiet icon",
          "aria-label": `Remove turn ${index + 1}`,
          onclick: () =>
            changed(
              messages.filter((_, at) => at !== index),
              Math.max(0, index - 1),
            ),
        },
        "×",
      );
      return h(
        "div",
        { class: "turn", "data-role": turn.role },
        h("div", { class: "who" }, who, messages.length > 1 ? remove : null),
        h("label", { for: id, class: "hidden" }, `Turn ${index + 1}`),
        text,
      );
    }),
  );
}
