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

  // A click on a heading sorts by its column, again the other way round; without a script nothing is offered.
  var table = document.querySelector("table.models");
  if (table) {
    var body = table.tBodies[0], rows = Array.from(body.rows), first = rows.slice();
    var heads = Array.from(table.tHead.querySelectorAll("th:not([scope=colgroup])"));
    // The second row of headings, one for each T, stands between ANN and the rest.
    var fixed = heads.filter(function (head) { return head.rowSpan === 2; });
    var steps = heads.filter(function (head) { return head.rowSpan === 1; });
    var order = fixed.slice(0, 4).concat(steps, fixed.slice(4));
    function value(row, column) {
      var text = row.cells[column].textContent.trim();
      var size = /^([\d.,]+) (k|M|G)?B$/.exec(text);
      if (size) return parseFloat(size[1].replace(/,/g, "")) * { k: 1e3, M: 1e6, G: 1e9, "": 1 }[size[2] || ""];
      var number = parseFloat(text.replace(/,/g, ""));
      return /^[\d.]/.test(text) && !isNaN(number) ? number : text;
    }
    order.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) button.appendChild(head.firstChild);
      head.appendChild(button);
      button.addEventListener("click", function () {
        var was = head.getAttribute("aria-sort");
        var next = { ascending: "descending", descending: "none" }[was] || "ascending";
        order.forEach(function (other) { other.removeAttribute("aria-sort"); });
        if (next !== "none") head.setAttribute("aria-sort", next);
        var sorted = next === "none" ? first : first.slice().sort(function (a, b) {
          var left = value(a, column), right = value(b, column), sign = next === "ascending" ? 1 : -1;
          if (typeof left !== typeof right) return typeof left === "number" ? -1 : 1;
          return sign * (typeof left === "number" ? left - right : left.localeCompare(right));
        });
        sorted.forEach(function (row) { body.appendChild(row); });
      });
    });
    var filter = document.querySelector(".filter"), input = filter.querySelector("input"), said = filter.querySelector("[role=status]");
    filter.classList.remove("off");
    input.addEventListener("input", function () {
      var words = input.value.toLowerCase().split(/\s+/), shown = 0;
      rows.forEach(function (row) {
        var text = row.textContent.toLowerCase();
        row.hidden = !words.every(function (word) { return text.includes(word); });
        shown += row.hidden ? 0 : 1;
      });
      said.textContent = input.value ? shown + " of " + rows.length : "";
    });
  }

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
