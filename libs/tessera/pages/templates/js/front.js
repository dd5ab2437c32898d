// MLflow's clients print links to its own web pages: /#/experiments/ID/runs/ID.
const place = () => {
  const told = decodeURIComponent(location.hash);
  const run = /^#\/experiments\/[\w-]+\/runs\/([\w-]+)/.exec(told) ?? /[?&]selectedRunUuid=([\w-]+)/.exec(told);
  if (run) return `pages/runs/${run[1]}`;
  const experiment = /^#\/experiments\/([\w-]+)/.exec(told);
  return experiment ? `pages/runs?experiment=${experiment[1]}` : null;
};
const go = () => {
  const found = place();
  if (found) location.replace(found);
};
addEventListener("hashchange", go);
go();
