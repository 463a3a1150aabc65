// The dialog that asks for a key. It is kept in this tab (sessionStorage), and sent to this server alone.

import { useKey } from "./api.js";
import { byId } from "./dom.js";

let asking = null;

/** Ask; true once a key was given. Two who ask at once get one dialog. */
export function askKey(why = "") {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    const field = byId("key-value");
    if (why) byId("key-why").textContent = why;
    field.value = "";
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        const given = dialog.returnValue === "use" && field.value.trim() !== "";
        if (given) useKey(field.value);
        field.value = "";
        resolve(given);
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}
