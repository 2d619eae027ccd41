(function () {
  "use strict";
  var swap = document.getElementById("swap");
  // No storage: the choice goes along in the address of the next page.
  function carry() {
    document.querySelectorAll("a[href]").forEach(function (link) {
      var parts = /^((?:\.\.\/)?(?:models\/)?[^:/?#]+\.html)(\?swap)?(#.*)?$/.exec(link.getAttribute("href"));
      if (parts) link.setAttribute("href", parts[1] + (swap.checked ? "?swap" : "") + (parts[3] || ""));
    });
  }
  if (location.search === "?swap") swap.checked = true;
  swap.addEventListener("change", carry);
  addEventListener("pageshow", carry);
  carry();

  document.querySelectorAll(".snippet button").forEach(function (button) {
    var code = button.parentNode.querySelector("code");
    button.hidden = false;
    function say(word) {
      button.textContent = word;
      setTimeout(function () { button.textContent = "Copy"; }, 2000);
    }
    function select() {
      var selection = getSelection();
      selection.selectAllChildren(code);
      say(document.execCommand("copy") ? "Copied" : "Selected");
    }
    button.addEventListener("click", function () {
      if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(function () { say("Copied"); }, select);
      else select();
    });
  });

  document.querySelectorAll(".legend").forEach(function (legend) {
    function mark(event) {
      var item = event.type === "pointerleave" || event.type === "focusout" ? null : event.target.closest("[data-series]");
      document.querySelectorAll("g[data-series]").forEach(function (group) {
        group.classList.toggle("dim", Boolean(item) && group.dataset.series !== item.dataset.series);
      });
    }
    ["pointerover", "pointerleave", "focusin", "focusout"].forEach(function (name) { legend.addEventListener(name, mark); });
  });
})();
