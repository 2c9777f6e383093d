// How the search ranks what it finds: chapters before the reference of the package.
var Scorer = {
  score: ([page, title, anchor, description, score]) =>
    /^(api|genindex|py-modindex|references)$/.test(page) ? score / 100 : score,
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
