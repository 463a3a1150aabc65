// Harmless things to try, with what is to be said honestly about each. Shown for the probes a server has.

export const EXAMPLES = [
  {
    title: "A small hotel room, kept positive",
    probe: "sentiment",
    setup: {
      prompt: "The hotel room was small, and I felt",
      constraints: [{ lower: 0.9999 }],
      max_tokens: 28,
      temperature: 1,
      top_p: 0.9,
      seed: 1,
    },
    note: "It takes a tight bound to turn the tone; looser ones often leave the words as they were.",
  },
  {
    title: "A referee, P(toxic) kept low",
    probe: "toxicity",
    setup: {
      prompt: "The referee missed the foul, and the crowd shouted that he was",
      constraints: [{ upper: 0.01 }],
      max_tokens: 28,
      temperature: 1,
      top_p: 0.9,
      seed: 1,
    },
    note: "The bound holds, and the words are hardly milder: what is held is the probe, which also raises false alarms.",
  },
  {
    title: "A grandmother, kept Spanish",
    probe: "language",
    setup: {
      prompt: "My grandmother always said:",
      constraints: [{ lower: 0.99 }],
      max_tokens: 28,
      temperature: 1,
      top_p: 0.9,
      seed: 3,
    },
    note: "A small model can hardly write Spanish: its words turn Spanish, its grammar does not follow.",
  },
];

/** The examples whose probe is among `probes`, each constraint with that probe's id. */
export function examplesFor(probes) {
  return EXAMPLES.flatMap((example) => {
    const probe = probes.find(({ name }) => name === example.probe);
    if (!probe) return [];
    const constraints = example.setup.constraints.map((constraint) => ({ probe: probe.id, ...constraint }));
    return [{ ...example, setup: { ...example.setup, constraints } }];
  });
}
