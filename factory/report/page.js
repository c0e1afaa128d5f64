"use strict";
// Marks the section in view in the contents, opens what a link or a print needs.
(() => {
  const links = new Map();
  for (const link of document.querySelectorAll("nav a[href^='#']")) {
    const target = document.getElementById(link.getAttribute("href").slice(1));
    if (target) links.set(target, link);
  }
  const mark = () => {
    const line = innerHeight / 3;
    let current = null;
    for (const target of links.keys()) if (!target.hidden && target.getBoundingClientRect().top <= line) current = target;
    if (scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2) current = [...links.keys()].pop() ?? current;
    for (const [target, link] of links) {
      if (target !== current) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const bar = link.closest("ul");
        if (bar.scrollWidth > bar.clientWidth) bar.scrollLeft = link.offsetLeft - bar.offsetLeft - 40;
      }
    }
  };
  addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
  mark();

  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    for (let one = target || null; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  };
  addEventListener("hashchange", open);
  open();

  const closed = () => [...document.querySelectorAll("main details:not([open]):not(.sample details)")];
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = closed();
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
